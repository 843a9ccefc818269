"""MaskGIT decoding on known distributions: seeds, batches and kept tokens."""

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare, qmc

from mmjax.config import SamplingConfig
from mmjax.sample.masked import halton_ranks, make_sampler, maskgit_decode

K = 3  # codes
# A joint distribution of two tokens: strongly dependent, with unequal marginals.
JOINT = np.array([[0.30, 0.04, 0.06], [0.01, 0.23, 0.04], [0.05, 0.05, 0.22]])


def settings(steps: int, order: Any = "confidence", guided: bool = False, **changes: Any) -> SamplingConfig:
    return SamplingConfig(steps=steps, order=order, guidance=2.0 if guided else 1.0, **changes)


def planted(codes: jax.Array, masked: jax.Array) -> jax.Array:
    """Logits of the exact conditionals of JOINT, for grids of one row and two columns."""
    joint = jnp.asarray(JOINT, jnp.float32)
    first, second = codes[:, 0, 0], codes[:, 0, 1]
    left = jnp.where(masked[:, 0, 1, None], joint.sum(1)[None], joint.T[second])
    right = jnp.where(masked[:, 0, 0, None], joint.sum(0)[None], joint[first])
    return jnp.log(jnp.stack([left, right], axis=1))[:, None]


def drawn(decoding: SamplingConfig, count: int = 6000, **changes: Any) -> np.ndarray:
    start: dict[str, Any] = {
        "codes": jnp.zeros((count, 1, 2), jnp.int32),
        "masked": jnp.ones((count, 1, 2), jnp.bool_),
        "seeds": jnp.arange(count, dtype=jnp.int32),
    }
    return np.asarray(jax.jit(lambda **kw: maskgit_decode(planted, decoding=decoding, **kw))(**(start | changes)))[:, 0]


@pytest.mark.parametrize("order", ["halton", "confidence"])
def test_one_token_a_step_samples_the_joint_distribution(order: Any) -> None:
    # In an order that does not depend on what was drawn, drawing from exact conditionals draws from the joint. So it is
    # with confidences that are nothing but noise.
    codes = drawn(settings(2, order, confidence_temperature=1e6))
    counts = np.zeros_like(JOINT)
    np.add.at(counts, (codes[:, 0], codes[:, 1]), 1)
    assert chisquare(counts.ravel(), JOINT.ravel() * len(codes)).pvalue > 1e-3


def test_single_step_samples_the_marginals() -> None:
    codes = drawn(settings(1))
    independent = np.outer(JOINT.sum(1), JOINT.sum(0))
    counts = np.zeros_like(JOINT)
    np.add.at(counts, (codes[:, 0], codes[:, 1]), 1)
    assert chisquare(counts.ravel(), independent.ravel() * len(codes)).pvalue > 1e-3
    assert chisquare(counts.ravel(), JOINT.ravel() * len(codes)).pvalue < 1e-9  # the test can tell the two apart


def test_refinement_recovers_the_joint_distribution() -> None:
    codes = drawn(settings(1, refinement_steps=16))
    counts = np.zeros_like(JOINT)
    np.add.at(counts, (codes[:, 0], codes[:, 1]), 1)
    assert chisquare(counts.ravel(), JOINT.ravel() * len(codes)).pvalue > 1e-3


def test_temperature_scales_the_logits() -> None:
    codes = drawn(settings(1, temperature=0.5))
    sharpened = JOINT.sum(1) ** 2 / (JOINT.sum(1) ** 2).sum()
    counts = np.bincount(codes[:, 0], minlength=K)
    assert chisquare(counts, sharpened * len(codes)).pvalue > 1e-3


def test_top_k_excludes_other_codes() -> None:
    assert set(np.unique(drawn(settings(1, top_k=2))[:, 0])) == {0, 2} == set(np.argsort(JOINT.sum(1))[-2:].tolist())
    assert (drawn(settings(1, top_k=1))[:, 0] == JOINT.sum(1).argmax()).all()


def test_unmasked_tokens_are_kept_and_conditioned_on() -> None:
    masked = jnp.zeros((6000, 1, 2), jnp.bool_).at[:, 0, 1].set(True)
    codes = drawn(settings(3, refinement_steps=5), codes=jnp.ones((6000, 1, 2), jnp.int32), masked=masked)
    assert (codes[:, 0] == 1).all()
    expected = JOINT[1] / JOINT[1].sum() * len(codes)
    assert chisquare(np.bincount(codes[:, 1], minlength=K), expected).pvalue > 1e-3


def flat(codes: jax.Array, masked: jax.Array) -> jax.Array:
    """Logits that do not depend on anything."""
    return jnp.zeros((*codes.shape, 5))


@pytest.mark.parametrize("order", ["halton", "confidence"])
def test_examples_depend_on_their_seed_only(order: Any) -> None:
    masked = jnp.ones((7, 3, 5), jnp.bool_)
    seeds = jnp.arange(7, dtype=jnp.int32)
    compiled = jax.jit(maskgit_decode, static_argnums=(0, 4))
    whole = compiled(flat, masked.astype(jnp.int32), masked, seeds, settings(4, order))
    part = compiled(flat, masked[2:5].astype(jnp.int32), masked[2:5], seeds[2:5], settings(4, order))
    np.testing.assert_array_equal(whole[2:5], part)
    assert len(np.unique(np.asarray(whole).reshape(7, -1), axis=0)) == 7


@pytest.mark.parametrize("order", ["halton", "confidence"])
@pytest.mark.parametrize("steps", [1, 2, 11])  # each compiles
def test_masked_tokens_follow_the_cosine_schedule(steps: int, order: Any) -> None:
    """An example with each number of masked tokens there is, all at once."""
    seen: list[list[int]] = []

    def counting(codes: jax.Array, masked: jax.Array) -> jax.Array:
        jax.debug.callback(lambda m: seen.append(m.sum((1, 2)).tolist()), masked, ordered=True)
        return jnp.zeros((*codes.shape, 2))

    counts = np.arange(16)
    masked = (np.arange(15) < counts[:, None]).reshape(16, 3, 5)
    jax.jit(maskgit_decode, static_argnums=(0, 4))(
        counting, masked.astype(np.int32), masked, counts, settings(steps, order)
    )
    jax.effects_barrier()
    expected = [counts]
    for i in range(steps - 1):
        wanted = np.floor(counts * np.cos(np.pi / 2 * (i + 1) / steps) + 1e-4)
        expected.append(np.maximum(np.minimum(wanted, expected[-1] - 1), 0))
    # After the last step none is left, or the codes would not be filled.
    np.testing.assert_array_equal(seen, expected)


def test_guidance_equals_the_formula_in_one_call_a_step() -> None:
    text, none = np.array([0.0, 1.0, -1.0]), np.array([0.5, 0.0, 0.0])
    sizes: list[int] = []

    def scores(codes: jax.Array, masked: jax.Array) -> jax.Array:
        sizes.append(codes.shape[0])
        half = codes.shape[0] // 2
        rows = jnp.asarray(np.concatenate([np.tile(text, (half, 1)), np.tile(none, (half, 1))]), jnp.float32)
        return jnp.broadcast_to(rows[:, None, None], (*codes.shape, K))

    count = 6000
    decoding = settings(1, guided=True, guidance_schedule="constant")
    masked = jnp.ones((count, 1, 1), jnp.bool_)
    args = (masked.astype(jnp.int32), masked, jnp.arange(count, dtype=jnp.int32), decoding, jnp.float32(2.5))
    codes = np.asarray(jax.jit(maskgit_decode, static_argnums=(0, 4))(scores, *args))
    assert set(sizes) == {2 * count}
    mixed = np.exp(none + 2.5 * (text - none))
    expected = mixed / mixed.sum() * count
    assert chisquare(np.bincount(codes.ravel(), minlength=K), expected).pvalue > 1e-3


def test_guidance_drops_the_text_only() -> None:
    """Code 1 is as likely as the text says, code 2 as the rest does; the decoder gives the codes."""

    def context(params: Any, text: jax.Array, extra: jax.Array) -> tuple[jax.Array, ...]:
        return text, extra

    def logits(params: Any, codes: jax.Array, masked: jax.Array, text: jax.Array, extra: jax.Array) -> jax.Array:
        rows = jnp.stack([jnp.zeros_like(extra), 0.5 * text[:, 0].astype(jnp.float32), extra], axis=-1)
        return jnp.broadcast_to(rows[:, None, None], (*codes.shape, K))

    model_fns = types.SimpleNamespace(context=context, logits=logits, decode=lambda _, codes: codes.astype(jnp.float32))
    count = 6000
    masked = jnp.ones((count, 1, 1), jnp.bool_)
    draw = make_sampler(model_fns, settings(1, guided=True, guidance_schedule="constant"))
    seeds, guidance = jnp.arange(count, dtype=jnp.int32), jnp.float32(2.5)
    text, extra = jnp.full((count, 2), 1, jnp.int32), jnp.full(count, 0.75, jnp.float32)
    codes = jax.jit(draw)({}, {}, text, masked.astype(jnp.int32), masked, seeds, guidance, extra=extra)
    mixed = np.exp([0.0, 2.5 * 0.5, 0.75])  # guidance makes more of the text, and leaves the rest
    counts = np.bincount(np.asarray(codes, np.int64).ravel(), minlength=K)
    assert chisquare(counts, mixed / mixed.sum() * count).pvalue > 1e-3


def test_linear_guidance_schedule() -> None:
    # One place is settled a step; the weight of code 1 tells the guidance at that step.
    count, steps, guidance = 8000, 2, 5.0

    def scores(codes: jax.Array, masked: jax.Array) -> jax.Array:
        half = codes.shape[0] // 2
        given = jnp.arange(2 * half) < half
        one = jnp.where(given, jnp.float32(0.4), 0.0)[:, None, None]
        return jnp.stack([jnp.zeros_like(codes, jnp.float32), jnp.broadcast_to(one, codes.shape)], axis=-1)

    masked = jnp.ones((count, 1, 2), jnp.bool_)
    decoding = settings(steps, "halton", guided=True)
    given = (masked.astype(jnp.int32), masked, jnp.arange(count), decoding, jnp.float32(guidance))
    codes = jax.jit(maskgit_decode, static_argnums=(0, 4))(scores, *given)
    first, last = np.argsort(halton_ranks((1, 2)))
    for place, step in ((first, 1), (last, 2)):
        scale = 1 + (guidance - 1) * step / steps
        expected = 1 / (1 + np.exp(-0.4 * scale))
        found = np.asarray(codes)[:, 0, place].mean()
        assert abs(found - expected) < 4 * np.sqrt(expected * (1 - expected) / count)


@pytest.mark.parametrize("grid", [(7,), (5, 3), (8, 8), (2, 3, 5)])
def test_halton_order_equals_scipy(grid: tuple[int, ...]) -> None:
    points = qmc.Halton(len(grid), scramble=False).random(5000)[1:]  # SciPy's begins with 0
    visited = list(dict.fromkeys(map(tuple, (points * grid).astype(int).tolist())))
    expected = np.empty(grid, int)
    for rank, place in enumerate(visited):
        expected[place] = rank
    assert len(visited) == np.prod(grid)
    np.testing.assert_array_equal(halton_ranks(grid), expected.ravel())
    with pytest.raises(ValueError, match="at most 3 axes"):
        halton_ranks((2, 2, 2, 2))
