"""Sampling of masked visual tokens: MaskGIT decoding (Chang et al. 2022, arXiv:2202.04200) as one compiled loop.

Generation, inpainting, outpainting, variation and continuation differ only in which tokens are masked at first.
"""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmjax.config import SamplingConfig
from mmjax.types import Params

logger = logging.getLogger(__name__)
BASES = (2, 3, 5)  # of the Halton sequence, one for each axis


@runtime_checkable
class GeneratorFns(Protocol):
    """The functions of a masked generator and its visual tokenizer; see models/masked_generator.ModelFns."""

    context: Callable[..., Any]
    logits: Callable[..., jax.Array]
    decode: Callable[..., jax.Array]


def make_sampler(model_fns: GeneratorFns, decoding: SamplingConfig) -> Callable[..., jax.Array]:
    """The pure function sample(params, tokenizer_params, text, codes, masked, seeds, guidance) -> images.

    Further keyword arguments, arrays of b rows each, are conditions handed to `context` besides the text. Both passes
    of classifier-free guidance see these; only the text is dropped.

    Args:
        model_fns: context(params, text) encodes the conditions, logits(params, codes, masked, *context) predicts the
            codes, decode(tokenizer_params, codes) gives images.
    """

    def sample(
        params: Params,
        tokenizer_params: Params,
        text: Int[Array, "b t"],
        codes: Int[Array, "b *grid"],
        masked: Bool[Array, "b *grid"],
        seeds: Int[Array, "b"],
        guidance: Float[Array, ""],
        **conditions: jax.Array,
    ) -> Float[Array, "b *pixels c"]:
        guided = is_guided(decoding)
        texts = jnp.concatenate([text, jnp.zeros_like(text)]) if guided else text
        both = {name: jnp.concatenate([x, x]) if guided else x for name, x in conditions.items()}
        context = model_fns.context(params, texts, **both)

        def scores(codes: jax.Array, masked: jax.Array) -> jax.Array:
            return model_fns.logits(params, codes, masked, *context)

        codes = maskgit_decode(scores, codes, masked, seeds, _capped(decoding, math.prod(codes.shape[1:])), guidance)
        return model_fns.decode(tokenizer_params, codes)

    return sample


@functools.cache  # so that it is told once, not with each trace
def _capped(decoding: SamplingConfig, tokens: int) -> SamplingConfig:
    """The decoding with at most a step for each token, since each step unmasks at least one."""
    if decoding.steps <= tokens:
        return decoding
    logger.warning("sampling.steps: %d exceed the %d tokens; %d are done", decoding.steps, tokens, tokens)
    return dataclasses.replace(decoding, steps=tokens)


def is_guided(decoding: SamplingConfig) -> bool:
    """Whether classifier-free guidance takes a second pass without the text."""
    return decoding.guidance not in (0, 1)


def maskgit_decode(
    logits: Callable[[Int[Array, "g *grid"], Bool[Array, "g *grid"]], Float[Array, "g *grid k"]],
    codes: Int[Array, "b *grid"],
    masked: Bool[Array, "b *grid"],
    seeds: Int[Array, "b"],
    decoding: SamplingConfig,
    guidance: Float[Array, ""] | None = None,
) -> Int[Array, "b *grid"]:
    """Samples the masked codes.

    After step i of n about cos(pi / 2 * (i + 1) / n) of the initially masked tokens are still masked; each step unmasks
    at least one, if any is left. Each example is sampled with its own key, and does not depend on the others.

    Refinement then resamples blocks of tokens (a quarter of an image's, an eighth of a clip's, none adjacent) given all
    others: blocked Gibbs sampling, which corrects inconsistencies of tokens sampled in parallel.

    Args:
        logits: predicts every code; called once in each step. With guidance it gets the examples twice, first with
            their text, then without.
        codes: the values at masked positions are ignored.
        masked: the positions to sample.
        seeds: one for each example.
        decoding: all of it static; of its guidance scale only whether there is guidance counts.
        guidance: scale at the last step.
    """
    count, grid = codes.shape[0], codes.shape[1:]
    total = jnp.sum(masked.reshape(count, -1), axis=1)
    ranks = jnp.asarray(halton_ranks(grid), jnp.float32)[None]
    keys = jax.vmap(jax.random.key)(seeds.astype(jnp.uint32))
    blocks = jnp.asarray(_blocks(grid))
    scores = _guided(logits, decoding, guidance)

    def keys_of(number: jax.Array) -> jax.Array:
        return jax.vmap(jax.random.split)(jax.vmap(jax.random.fold_in, (0, None))(keys, number))

    def step(carry: tuple[jax.Array, jax.Array], number: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        codes, masked = carry
        done = (number.astype(jnp.float32) + 1.0) / decoding.steps
        step_keys = keys_of(number)
        drawn, confidence = _draw(scores(codes, masked, done), step_keys[:, 0], decoding.temperature, decoding.top_k)
        codes = jnp.where(masked, drawn.reshape(codes.shape), codes)
        if decoding.order == "halton":
            confidence = jnp.broadcast_to(-ranks, confidence.shape)
        else:
            noise = jax.vmap(lambda key: jax.random.gumbel(key, confidence.shape[1:]))(step_keys[:, 1])
            confidence += decoding.confidence_temperature * (1.0 - done) * noise
        remaining = jnp.floor(total.astype(jnp.float32) * jnp.cos(done * math.pi / 2) + 1e-4).astype(jnp.int32)
        remaining = jnp.where(number == decoding.steps - 1, 0, remaining)
        return (codes, _least_confident(confidence, masked, remaining)), None

    def refine(codes: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        block = masked & (blocks == number % 2 ** len(grid))[None]
        key = keys_of(decoding.steps + number)[:, 0]
        drawn, _ = _draw(scores(codes, block, jnp.float32(1.0)), key, decoding.refinement_temperature, decoding.top_k)
        return jnp.where(block, drawn.reshape(codes.shape), codes), None

    (codes, _), _ = jax.lax.scan(step, (codes, masked), jnp.arange(decoding.steps))
    if decoding.refinement_steps:
        codes, _ = jax.lax.scan(refine, codes, jnp.arange(decoding.refinement_steps))
    return codes


def _guided(
    logits: Callable[..., jax.Array], decoding: SamplingConfig, guidance: Float[Array, ""] | None
) -> Callable[[jax.Array, jax.Array, jax.Array], Float[Array, "b n k"]]:
    """The logits (codes, masked, fraction of steps done) -> [b, n, k] with classifier-free guidance.

    none + guidance * (text - none) (Ho and Salimans 2022, arXiv:2207.12598).
    """

    def scores(codes: jax.Array, masked: jax.Array, done: jax.Array) -> jax.Array:
        if is_guided(decoding):
            assert guidance is not None
            scale = 1.0 + (guidance - 1.0) * done if decoding.guidance_schedule == "linear" else guidance
            text, none = jnp.split(logits(jnp.concatenate([codes, codes]), jnp.concatenate([masked, masked])), 2)
            found = none + scale * (text - none)
        else:
            found = logits(codes, masked)
        return found.reshape(len(codes), -1, found.shape[-1])

    return scores


def _least_confident(
    confidence: Float[Array, "b n"], masked: Bool[Array, "b *grid"], remaining: Int[Array, "b"]
) -> Bool[Array, "b *grid"]:
    """The positions that stay masked: the `remaining` least confident, at least one fewer than now."""
    flat = masked.reshape(confidence.shape)
    remaining = jnp.clip(remaining, 0, jnp.maximum(jnp.sum(flat, axis=1) - 1, 0))
    rank = jnp.argsort(jnp.argsort(jnp.where(flat, confidence, jnp.inf), axis=1), axis=1)
    return (rank < remaining[:, None]).reshape(masked.shape)


def _blocks(grid: Sequence[int]) -> Int[np.ndarray, "*grid"]:
    """The refinement block of each position: positions whose coordinates have the same parities."""
    odd = np.indices(grid) % 2
    return sum(axis << i for i, axis in enumerate(odd))


def _draw(
    scores: Float[Array, "b n k"], keys: Any, temperature: float, top_k: int
) -> tuple[Int[Array, "b n"], Float[Array, "b n"]]:
    """Samples a code at each position, and gives its log-probability."""
    if 0 < top_k < scores.shape[-1]:
        lowest = jax.lax.top_k(scores, top_k)[0][..., -1:]
        scores = jnp.where(scores < lowest, -jnp.inf, scores)
    scores /= temperature
    drawn = jax.vmap(lambda key, rows: jax.random.categorical(key, rows))(keys, scores)
    log_probs = jax.nn.log_softmax(scores)
    return drawn, jnp.take_along_axis(log_probs, drawn[..., None], axis=-1)[..., 0]


def halton_ranks(grid: Sequence[int]) -> Int[np.ndarray, "n"]:
    """The order in which the Halton sequence (1960) visits the positions of a grid, in row-major order.

    Unmasking in this order is of Besnier et al. 2025, arXiv:2503.17076.

    Raises:
        ValueError: for more than 3 axes.
    """
    if len(grid) > len(BASES):
        raise ValueError(f"Halton order: at most {len(BASES)} axes, not {len(grid)}")
    ranks = np.full(grid, -1)
    number = visited = 0
    while visited < ranks.size:
        number += 1
        place = tuple(int(_radical_inverse(number, base) * side) for base, side in zip(BASES, grid, strict=False))
        if ranks[place] < 0:
            ranks[place] = visited
            visited += 1
    return ranks.reshape(-1)


def _radical_inverse(number: int, base: int) -> float:
    """The digits of the number in that base, mirrored at the point (van der Corput sequence)."""
    result, weight = 0.0, 1.0 / base
    while number:
        number, digit = divmod(number, base)
        result += digit * weight
        weight /= base
    return result
