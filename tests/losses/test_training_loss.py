"""The training loss against NumPy and closed forms: terms, weights, and what each draws."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax import losses
from mmjax.config import Config, ModelConfig, resolve
from mmjax.losses import LOSSES, TrainingLoss
from mmjax.models import MODELS
from mmjax.types import Batch, UserError, stream

TEXT = jnp.asarray([[5, 6, 3], [0, 0, 0], [3, 0, 0], [5, 6, 3]], jnp.int32)
MASK = jnp.array([True, True, True, False])


def config_of(kind: str, terms: dict[str, Any], **rest: Any) -> Config:
    return resolve({"train": {"steps": 1}, "model": {"kind": kind}, "losses": terms, **rest})


def fields(*names: str) -> Any:
    """As the inputs of a model: fields of the batch under their own names."""
    return lambda batch, key: {name: batch[name] for name in names}


@pytest.fixture(name="pair")
def random_pair() -> tuple[dict[str, Any], Batch]:
    rng = np.random.default_rng(0)
    images = [jnp.asarray(rng.uniform(-1, 1, (5, 7, 3, 3)).astype(np.float32)) for _ in range(2)]
    return {"image": images[0]}, {"image": images[1], "text": jnp.ones((5, 3), int), "mask": jnp.ones(5, bool)}


def test_terms_equal_numpy(pair: Any) -> None:
    outputs, batch = pair
    difference = np.asarray(outputs["image"] - batch["image"], np.float64).reshape(5, -1)
    terms = {"squared": {"kind": "mean_squared_error", "weight": 2.0}, "mean_absolute_error": {"weight": 0.5}}
    loss = losses.build(config_of("direct_generator", terms), fields("text"))
    found = loss.terms(outputs, batch)
    np.testing.assert_allclose(found["squared"], (difference**2).mean(1), rtol=1e-5)
    np.testing.assert_allclose(found["mean_absolute_error"], np.abs(difference).mean(1), rtol=1e-5)
    expected = 2 * (difference**2).mean(1) + 0.5 * np.abs(difference).mean(1)
    np.testing.assert_allclose(loss.loss(found), expected, rtol=1e-5)
    rest = loss.without(["squared"])
    assert rest.terms(outputs, batch).keys() == {"mean_absolute_error"}
    np.testing.assert_allclose(rest.loss(found), 0.5 * np.abs(difference).mean(1), rtol=1e-5)


@pytest.mark.parametrize("shape", [(2, 8, 12, 3), (2, 5, 8, 4, 1)])
def test_errors_at_several_scales(shape: tuple[int, ...]) -> None:
    y, x = np.indices(shape[-3:-1])
    squares = np.broadcast_to((2 * ((y + x) % 2) - 1)[..., None], shape).astype(np.float32)  # means of 2 x 2 are 0
    terms = {"mean_absolute_error": {"scales": 3}, "squared": {"kind": "mean_squared_error", "scales": 3}}
    loss = losses.build(config_of("visual_tokenizer", terms), fields("image"))
    for difference, expected in ((squares, 1 / 3), (np.ones_like(squares), 1.0), (0.5 + squares / 2, 0.5)):
        found = loss.terms({"image": jnp.asarray(difference)}, {"image": jnp.zeros(shape)})
        np.testing.assert_allclose(found["mean_absolute_error"], expected, rtol=1e-6)
    np.testing.assert_allclose(found["squared"], (0.5 + 0.25 + 0.25) / 3, rtol=1e-6)


def test_too_many_scales() -> None:
    with pytest.raises(UserError, match="multiple of 64"):
        config_of("visual_tokenizer", {"mean_absolute_error": {"scales": 7}}, data={"size": 32})


# Each kind of term with what it puts into the model, and a fitting model.
PREPARED = {
    "masked_visual_modeling": ("masked_generator", "masked"),
    "masked_language_modeling": ("vision_language", "hidden_text"),
    "masked_patch_modeling": ("vision_language", "hide_patches"),
    "matching": ("vision_language", "negatives"),
}


def prepared(terms: dict[str, Any], key: jax.Array | None) -> dict[str, Any]:
    specs = {name: LOSSES[term["kind"]] for name, term in terms.items()}
    configs = {name: specs[name].config(**term) for name, term in terms.items()}
    text = jnp.tile(jnp.arange(5, 12, dtype=jnp.int32), (13, 1))
    batch = {"text": text, "codes": jnp.zeros((13, 3, 5), jnp.int32), "mask": jnp.ones(13, bool)}
    batch["key"] = jnp.arange(13, dtype=jnp.uint32)

    def inputs(batch: Batch, key: jax.Array | None) -> dict[str, Any]:
        return {"drawn_by_the_model": None if key is None else jax.random.uniform(key, (7,))}

    return TrainingLoss(specs, configs, inputs).prepare(batch, key)


def plain(value: Any) -> Any:
    is_key = lambda x: isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)  # noqa: E731
    return jax.tree.map(lambda x: np.asarray(jax.random.key_data(x) if is_key(x) else x), value)


def test_every_term_that_draws_is_covered() -> None:
    assert PREPARED.keys() == {name for name, spec in LOSSES.items() if spec.prepare}


@pytest.mark.parametrize("kind", sorted(PREPARED))
@pytest.mark.parametrize("training", [True, False])
def test_a_term_draws_the_same_beside_others(kind: str, training: bool) -> None:
    """Random streams have names: a term more, before or after, changes no other draw, nor those of the model."""
    key = jax.random.key(7) if training else None
    alone = prepared({kind: {"kind": kind}}, key)
    others = {name: {"kind": name} for name in PREPARED if name != kind}
    for terms in (others | {kind: {"kind": kind}}, {kind: {"kind": kind}} | others):
        among = prepared(terms, key)
        for name in (PREPARED[kind][1], "drawn_by_the_model"):
            jax.tree.map(np.testing.assert_array_equal, plain(among[name]), plain(alone[name]))
    renamed = prepared({"other": {"kind": kind}}, key)  # another name is another stream
    drawn = [jax.tree.leaves(plain(each[PREPARED[kind][1]])) for each in (alone, renamed)]
    assert any((a != b).any() for a, b in zip(*drawn, strict=True))


@pytest.mark.parametrize("kind", sorted(PREPARED))
def test_in_evaluation_what_is_drawn_follows_from_the_example(kind: str) -> None:
    config = LOSSES[kind].config(kind=kind)
    name = PREPARED[kind][1]
    loss = TrainingLoss({kind: LOSSES[kind]}, {kind: config}, lambda batch, key: {})
    rng = np.random.default_rng(3)
    batch = {
        "text": jnp.asarray(rng.integers(5, 99, (6, 9)), jnp.int32),
        "codes": jnp.asarray(rng.integers(0, 9, (6, 7, 5)), jnp.int32),
        "mask": jnp.ones(6, bool),
        "key": jnp.asarray([3, 8, 1, 2**32 - 1, 0, 5], jnp.uint32),
    }
    whole = plain(loss.prepare(batch, None)[name])
    order = np.array([4, 1, 3])
    part = plain(loss.prepare({field: values[order] for field, values in batch.items()}, None)[name])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[order], b), whole, part)
    same = plain(
        loss.prepare(batch | {name: values[:1].repeat(6, axis=0) for name, values in batch.items()}, None)[name]
    )
    assert all((leaf == leaf[0]).all() for leaf in jax.tree.leaves(same))
    others = plain(loss.prepare(batch | {"key": batch["key"] + jnp.uint32(1)}, None)[name])
    leaves = zip(jax.tree.leaves(whole), jax.tree.leaves(others), strict=True)
    assert any((a != b).any() for a, b in leaves)


def test_streams_differ_by_name_and_by_key() -> None:
    keys = [stream(jax.random.key(seed), name) for seed in range(3) for name in ("a", "b", "ab", "")]
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 12


def test_a_loss_needs_outputs_that_the_model_gives() -> None:
    """For every pair of a model and a loss, by what both say of themselves."""
    tokenizer = {"visual_tokenizer": {"train": {"steps": 1}, "model": {"kind": "visual_tokenizer"}}}
    beside = {
        "matching": ["contrastive"],
        "adversarial": ["mean_absolute_error"],
        "feature_matching": ["mean_absolute_error"],
    }
    models_of: dict[str, set[str]] = {}
    refused = set()
    for kind, spec in MODELS.items():
        rest: dict[str, Any] = {"components": tokenizer} if "visual_tokenizer" in spec.components else {}
        rest |= {"perceptual": {"weights": "vgg.safetensors"}}
        model = {"kind": kind} | ({"classes": 7} if kind == "vision_language" else {})
        for name, loss in LOSSES.items():
            terms = {each: {} for each in (name, *beside.get(name, ()))}
            given = {"train": {"steps": 1}, "model": model, "losses": terms, **rest}
            try:
                config = resolve(given)
            except UserError as error:
                assert str(error).startswith(f"losses.{name}: ") and f"model.kind={kind}" in str(error)
                assert any(f"needs {each} " in str(error) for each in loss.needs)
                refused.add((kind, name))
            else:
                assert set(loss.needs) <= set(spec.outputs(config))
                models_of.setdefault(name, set()).add(kind)
    images = {"direct_generator", "visual_tokenizer"}
    assert {name: models_of[name] for name in ("mean_squared_error", "perceptual", "captioning", "matching")} == {
        "mean_squared_error": images,
        "perceptual": images,
        "captioning": {"vision_language"},
        "matching": {"vision_language"},
    }
    assert models_of["masked_language_modeling"] == {"masked_generator", "vision_language"}
    assert models_of.keys() == LOSSES.keys()
    assert len(refused) + sum(map(len, models_of.values())) == len(MODELS) * len(LOSSES)


@pytest.mark.parametrize(("terms", "name"), [
    ({"adversarial": {}}, "losses"),
    ({"mean_squared_error": {"kind": "adversarial"}}, "losses"),
    ({}, "losses"),
    ({"perceptual": {}}, "losses.perceptual"),
])  # fmt: skip
def test_losses_that_cannot_be(terms: dict[str, Any], name: str) -> None:
    with pytest.raises(UserError, match=rf"^{name}: "):
        config_of("visual_tokenizer", terms)


def test_what_the_terms_of_images_and_texts_are_given() -> None:
    batch = {"text": TEXT, "image": jnp.zeros((4, 2, 2, 3)), "mask": MASK, "key": jnp.arange(4, dtype=jnp.uint32)}
    terms = {"contrastive": {}, "matching": {}, "masked_patch_modeling": {"mask_ratio": 0.7}}
    loss = losses.build(config_of("vision_language", terms), fields("image", "text"))
    for key in (jax.random.key(0), None):
        inputs = loss.prepare(batch, key)
        assert inputs.keys() == {"image", "text", "negatives", "hide_patches"}
        _, groups, there = inputs["negatives"]
        np.testing.assert_array_equal(there, [True, False, False, False])
        assert groups[0] == groups[3] and len(np.unique(groups)) == 3
        np.testing.assert_array_equal(inputs["hide_patches"][1], np.full(4, 0.7, np.float32))


def test_the_fields_of_a_model_are_not_those_of_a_loss() -> None:
    assert not any(isinstance(spec.config, type) and issubclass(spec.config, ModelConfig) for spec in LOSSES.values())
