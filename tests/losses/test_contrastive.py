"""Contrastive losses against their formulas, written out over all pairs in NumPy."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy.special import expit, logsumexp

from mmjax.losses.contrastive import contrastive, matching, sigmoid_contrastive, text_groups

COUNT = 13
TEXT = np.random.default_rng(1).integers(5, 40, (COUNT, 7)).astype(np.int32)
TEXT[3] = TEXT[8]  # the same caption of two images
TEXT[5] = 0  # none
TEXT[6] = [3, 0, 0, 0, 0, 0, 0]  # just an end
MASK = np.arange(COUNT) != 10
PRESENT = [i for i in range(COUNT) if i not in (5, 6, 10)]


def made(count: int = COUNT, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    image, text = rng.normal(size=(2, count, 5))
    unit = [(x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (image, text)]
    scalars = {"scale": np.full(count, 7.0, np.float32), "offset": np.full(count, -2.0, np.float32)}
    return {"image_embedding": unit[0], "text_embedding": unit[1], **scalars}


def on_device(*trees: Any) -> Any:
    return jax.tree.map(jnp.asarray, trees)


def negatives(row: int) -> list[int]:
    return [j for j in PRESENT if j == row or not np.array_equal(TEXT[j], TEXT[row])]


@pytest.mark.parametrize("block", [1, 4, 13, 64])
def test_info_nce_is_its_formula(block: int) -> None:
    outputs = made()
    logits = 7.0 * outputs["image_embedding"].astype(float) @ outputs["text_embedding"].astype(float).T
    expected = np.zeros(COUNT)
    for i in PRESENT:
        among = negatives(i)
        expected[i] = (logsumexp(logits[i, among]) + logsumexp(logits[among, i])) / 2 - logits[i, i]
    found = jax.jit(functools.partial(contrastive, block=block))(*on_device(outputs, {"text": TEXT, "mask": MASK}))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("block", [1, 4, 64])
def test_the_sigmoid_loss_is_its_formula(block: int) -> None:
    outputs = made()
    logits = 7.0 * outputs["image_embedding"].astype(float) @ outputs["text_embedding"].astype(float).T - 2
    expected = np.zeros(COUNT)
    for i in PRESENT:
        expected[i] = -sum(np.log(expit(logits[i, j] if i == j else -logits[i, j])) for j in negatives(i))
    found = jax.jit(functools.partial(sigmoid_contrastive, block=block))(
        *on_device(outputs, {"text": TEXT, "mask": MASK})
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("loss", [contrastive, sigmoid_contrastive])
def test_gradients_do_not_depend_on_the_blocks_nor_on_the_devices(loss: Any) -> None:
    count = 24
    outputs = made(count)
    text = np.random.default_rng(2).integers(5, 9, (count, 2)).astype(np.int32)  # some are equal
    batch = {"text": text, "mask": np.ones(count, bool)}
    weights = jnp.linspace(0.1, 1.0, count)

    def gradient(block: int, *given: Any) -> Any:
        return jax.jit(jax.value_and_grad(lambda o, b: jnp.sum(weights * loss(o, b, block=block))))(*given)

    whole = gradient(count, *on_device(outputs, batch))
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    spread = jax.device_put((outputs, batch), NamedSharding(mesh, PartitionSpec("data")))
    for other in (gradient(5, *on_device(outputs, batch)), gradient(5, *spread)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), whole, other)


@pytest.mark.parametrize("loss", [contrastive, sigmoid_contrastive])
def test_memory_grows_with_the_batch_and_not_with_its_square(loss: Any) -> None:
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))

    def bytes_of(count: int) -> int:
        float_, int_ = (lambda *s: jax.ShapeDtypeStruct((count, *s), jnp.float32, sharding=rows)), jnp.int32
        outputs = {"image_embedding": float_(16), "text_embedding": float_(16), "scale": float_(), "offset": float_()}
        batch = {
            "text": jax.ShapeDtypeStruct((count, 4), int_, sharding=rows),
            "mask": jax.ShapeDtypeStruct((count,), jnp.bool_, sharding=rows),
        }
        step = jax.jit(jax.grad(lambda o, b: jnp.mean(loss(o, b, block=128))))
        return int(step.lower(outputs, batch).compile().memory_analysis().temp_size_in_bytes)

    small, large = bytes_of(2048), bytes_of(8192)
    assert large < 5 * small
    assert large < 8192 * 8192  # bytes: not even a quarter of the products of all pairs, over all devices


def test_equal_texts_are_one_group_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    texts = np.unique(rng.integers(0, 300, (20_000, 6)).astype(np.int32), axis=0)
    groups = np.asarray(jax.jit(text_groups)(jnp.asarray(texts)))
    assert len(np.unique(groups)) >= len(texts) - 2  # 32 bits: 0.05 collisions are expected
    np.testing.assert_array_equal(groups[:50], jax.jit(text_groups)(jnp.asarray(texts[:50])))
    swapped = texts[:, [1, 0, 2, 3, 4, 5]]
    differ = (swapped != texts).any(axis=1)
    assert (np.asarray(jax.jit(text_groups)(jnp.asarray(swapped)))[differ] != groups[differ]).all()


def test_matching_is_the_mean_over_the_pairs_that_count() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(COUNT, 3)).astype(np.float32)
    others = np.stack([np.roll(np.arange(COUNT), 1), np.roll(np.arange(COUNT), -2)], axis=1).astype(np.int32)
    others[3] = [8, 4]  # the same text is no negative
    outputs = {"match_logits": logits, "match_others": others}
    expected = np.zeros(COUNT)
    for i in PRESENT:
        losses = [-np.log(expit(float(logits[i, 0])))]
        for column, j in enumerate(others[i], start=1):
            if j in PRESENT and not np.array_equal(TEXT[i], TEXT[j]):
                losses.append(-np.log(expit(-float(logits[i, column]))))
        expected[i] = np.mean(losses)
    found = jax.jit(matching)(*on_device(outputs, {"text": TEXT, "mask": MASK}))
    np.testing.assert_allclose(found, expected, atol=1e-5)
