"""Fusions: what each kind computes, and that padding of the text changes nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.fusion import RULES, Fusion
from mmjax.nn.compute import Compute
from mmjax.nn.transformer import AttentionPooling

KEYS = jax.random.split(jax.random.key(0), 3)
VISUAL = jax.random.normal(KEYS[0], (3, 5, 12))
TEXT = jax.random.normal(KEYS[1], (3, 7, 12))
LENGTHS = np.array([7, 4, 1])
MASK = np.arange(7)[None, None, None] < LENGTHS.reshape(3, 1, 1, 1)


@functools.cache
def made(kind, **fields):
    """The fusion as a compiled function, and its parameters."""
    module = Fusion(kind, layers=2, heads=3, **fields)
    params = jax.jit(module.init)(KEYS[2], VISUAL, TEXT, MASK)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.05 * jnp.sin(jnp.arange(leaf.size).reshape(leaf.shape)), params)
    return jax.jit(lambda *seen: module.apply({"params": params}, *seen)), params


@pytest.mark.parametrize("kind", RULES)
def test_the_text_counts_and_its_padding_does_not(kind):
    fuse, _ = made(kind)
    found = fuse(VISUAL, TEXT, MASK)
    assert found.shape == VISUAL.shape and found.dtype == VISUAL.dtype
    for i, length in ((1, 4), (2, 1)):  # each example alone, with a text that has no padding
        alone = fuse(VISUAL[i : i + 1], TEXT[i : i + 1, :length], np.ones((1, 1, 1, length), bool))
        np.testing.assert_allclose(alone, found[i : i + 1], atol=1e-5)
    behind = jnp.where(MASK[:, 0, 0, :, None], TEXT, 99.0)
    np.testing.assert_allclose(fuse(VISUAL, behind, MASK), found, atol=1e-6)
    changed = fuse(VISUAL, TEXT.at[1, 3].add(jnp.sin(jnp.arange(12.0))), MASK)
    np.testing.assert_allclose(changed[::2], found[::2], atol=1e-6)
    assert np.abs(changed[1] - found[1]).max() > 1e-3


@pytest.mark.parametrize("kind", RULES)
def test_only_attention_lets_visual_tokens_see_each_other(kind):
    fuse, _ = made(kind)
    moved = np.abs(fuse(VISUAL.at[:, 2].add(jnp.sin(jnp.arange(12.0))), TEXT, MASK) - fuse(VISUAL, TEXT, MASK))
    assert moved[:, 2].max() > 1e-2
    assert (moved[:, [0, 1, 3, 4]].max() > 1e-4) == (kind in ("cross_attention", "joint"))


def test_a_joint_fusion_tells_whose_a_token_is():
    """The same features as visual tokens and as text differ by a learned vector alone."""
    fuse, params = made("joint")
    everything = np.ones((3, 1, 1, 5), bool)
    type_embedding = params["type_embedding"][None, None]
    swapped = (
        fuse(VISUAL, TEXT[:, :5] - type_embedding, everything),
        fuse(TEXT[:, :5], VISUAL - type_embedding, everything),
    )
    both = fuse(
        jnp.concatenate([VISUAL, TEXT[:, :5]], axis=1),
        -type_embedding + jnp.zeros((3, 1, 12)),
        np.zeros((3, 1, 1, 1), bool),
    )
    np.testing.assert_allclose(jnp.concatenate(swapped, axis=1), both, atol=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "bilinear"])
def test_perceptrons_equal_their_definition(kind):
    fuse, params = made(kind)
    whole = np.asarray(AttentionPooling(3).apply({"params": params["pool"]}, TEXT, jnp.asarray(MASK)), np.float64)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def normalized(x, q):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * q["scale"] + q["bias"]

    x = np.asarray(VISUAL, np.float64)
    for i in range(2):
        q = p[f"block_{i}"]
        if kind == "mlp":  # of one long vector
            long = [normalized(x, q["norm_mlp"]), np.repeat(normalized(whole, q["norm_text"])[:, None], 5, axis=1)]
            kernel = np.concatenate([q["mlp_in"]["kernel"], q["text_in"]["kernel"]])
            z = np.concatenate(long, axis=-1) @ kernel + q["mlp_in"]["bias"] + q["text_in"]["bias"]
            z = z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))) / 2
        else:  # Kim et al. 2017, equation 9
            ours = np.tanh(normalized(x, q["norm_mlp"]) @ q["mlp_in"]["kernel"] + q["mlp_in"]["bias"])
            theirs = np.tanh(normalized(whole, q["norm_text"]) @ q["text_in"]["kernel"] + q["text_in"]["bias"])
            z = np.einsum("bnr,br->bnr", ours, theirs)
        x = x + z @ q["mlp_out"]["kernel"] + q["mlp_out"]["bias"]
    np.testing.assert_allclose(fuse(VISUAL, TEXT, MASK), normalized(x, p["norm"]), atol=1e-4)


def test_rematerialized_layers_give_the_same():
    (plain, _), (remat, _) = made("joint"), made("joint", compute=Compute(remat=True, unroll=2))
    np.testing.assert_allclose(remat(VISUAL, TEXT, MASK), plain(VISUAL, TEXT, MASK), atol=1e-6)
