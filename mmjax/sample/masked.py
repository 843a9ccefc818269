"""Filling in masked tokens, a few more with every step, as one compiled loop.

Generating, inpainting, outpainting, variations and the next frames differ only in which tokens are masked at first.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmjax.types import Params

BASES = (2, 3, 5)  # of the Halton sequence, one an axis


@dataclass(frozen=True)
class MaskGITDecoding:
    """How tokens are drawn; every field is compiled in.

    Attributes:
        steps: forward passes.
        order: "confidence" settles the surest tokens first (Chang et al. 2022, arXiv:2202.04200), "halton" spreads
            them evenly over the grid (Besnier et al. 2025, arXiv:2503.17076).
        guided: whether the logits are of 2 b examples, the second half without a text.
        guidance_schedule: "linear" raises guidance over the steps from 1, "constant" keeps it.
        temperature: of the tokens drawn.
        confidence_temperature: of the Gumbel noise on the order by confidence; falls to 0 over the steps.
        top_k: draw only from so many of the likeliest codes; 0: from all.
        refinement_steps: forward passes after all is settled, each of which draws a block of tokens anew, a quarter of an
            image's or an eighth of a clip's, no two of them neighbors, given all others: blocked Gibbs sampling,
            which mends what tokens that were drawn at the same time did not know of each other.
        refinement_temperature: of the tokens that it draws.
    """

    steps: int
    order: Literal["confidence", "halton"] = "confidence"
    guided: bool = False
    guidance_schedule: Literal["linear", "constant"] = "linear"
    temperature: float = 1.0
    confidence_temperature: float = 4.5
    top_k: int = 0
    refinement_steps: int = 0
    refinement_temperature: float = 1.0


def make_sampler(model_fns: Any, decoding: MaskGITDecoding) -> Callable[..., jax.Array]:
    """The pure function draw(params, tokenizer_params, text, codes, masked, seeds, guidance) -> images, not compiled.

    What else it is given, by name and an array of b rows each, is handed to `context` with the text. Guidance is away
    from no text, not from none of that: both halves see it.

    Args:
        functions: of the model and its visual tokenizer: context(params, text) gives what the visual tokens look at,
            logits(params, codes, masked, *context) those of every code, and decode(tokenizer_params, codes) images.
    """

    def draw(
        params: Params,
        tokenizer_params: Params,
        text: Int[Array, "b t"],
        codes: Int[Array, "b *grid"],
        masked: Bool[Array, "b *grid"],
        seeds: Int[Array, "b"],
        guidance: Float[Array, ""],
        **given: jax.Array,
    ) -> Float[Array, "b *pixels c"]:
        texts = jnp.concatenate([text, jnp.zeros_like(text)]) if decoding.guided else text
        both = {name: jnp.concatenate([x, x]) if decoding.guided else x for name, x in given.items()}
        seen = model_fns.context(params, texts, **both)

        def scores(codes: jax.Array, masked: jax.Array) -> jax.Array:
            scored: jax.Array = model_fns.logits(params, codes, masked, *seen)
            return scored

        drawn: jax.Array = model_fns.decode(
            tokenizer_params, maskgit_decode(scores, codes, masked, seeds, decoding, guidance)
        )
        return drawn

    return draw


def maskgit_decode(
    logits: Callable[[Int[Array, "g *grid"], Bool[Array, "g *grid"]], Float[Array, "g *grid k"]],
    codes: Int[Array, "b *grid"],
    masked: Bool[Array, "b *grid"],
    seeds: Int[Array, "b"],
    decoding: MaskGITDecoding,
    guidance: Float[Array, ""] | None = None,
) -> Int[Array, "b *grid"]:
    """The codes with the masked ones drawn.

    After step i of n about cos(pi / 2 * (i + 1) / n) of the tokens masked at first are still masked; each step settles
    at least one, as long as there is one. Every example draws from a key of its own, so it does not depend on the
    others.

    Args:
        logits: of every code at every place; called once a step. With decoding.guided it is handed the examples twice,
            first for their text, then for none: guided logits are none + guidance * (text - none) (Ho and Salimans
            2022, arXiv:2207.12598).
        codes: what is at masked places does not matter.
        masked: the places to fill in.
        seeds: one an example.
        guidance: at the last step.
    """
    count, grid = codes.shape[0], codes.shape[1:]
    wanted, total = masked, jnp.sum(masked.reshape(count, -1), axis=1)
    ranks = jnp.asarray(halton_ranks(grid), jnp.float32)[None]
    keys = jax.vmap(jax.random.key)(seeds.astype(jnp.uint32))
    blocks = jnp.asarray(_blocks(grid))

    def scores(codes: jax.Array, masked: jax.Array, done: jax.Array) -> jax.Array:
        found = logits(*(jnp.concatenate([x, x]) if decoding.guided else x for x in (codes, masked)))
        if decoding.guided:
            assert guidance is not None
            scale = 1.0 + (guidance - 1.0) * done if decoding.guidance_schedule == "linear" else guidance
            text, none = jnp.split(found, 2)
            found = none + scale * (text - none)
        return found.reshape(count, -1, found.shape[-1])

    def keys_of(number: jax.Array) -> jax.Array:
        return jax.vmap(jax.random.split)(jax.vmap(jax.random.fold_in, (0, None))(keys, number))

    def step(carry: tuple[jax.Array, jax.Array], number: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        codes, masked = carry
        done = (number.astype(jnp.float32) + 1.0) / decoding.steps
        step_keys = keys_of(number)
        found = scores(codes, masked, done)
        drawn, confidence = _draw(found, step_keys[:, 0], decoding.temperature, decoding.top_k)
        codes = jnp.where(masked, drawn.reshape(codes.shape), codes)
        remaining = jnp.floor(total.astype(jnp.float32) * jnp.cos(done * math.pi / 2) + 1e-4).astype(jnp.int32)
        still = jnp.sum(masked.reshape(count, -1), axis=1)
        remaining = jnp.where(number == decoding.steps - 1, 0, jnp.clip(remaining, 0, jnp.maximum(still - 1, 0)))
        if decoding.order == "halton":
            confidence = jnp.broadcast_to(-ranks, confidence.shape)
        else:
            noise = jax.vmap(lambda key: jax.random.gumbel(key, confidence.shape[1:]))(step_keys[:, 1])
            confidence += decoding.confidence_temperature * (1.0 - done) * noise
        # The `remaining` least sure of the masked places stay masked.
        doubt = jnp.where(masked.reshape(count, -1), confidence, jnp.inf)
        place = jnp.argsort(jnp.argsort(doubt, axis=1), axis=1)
        return (codes, (place < remaining[:, None]).reshape(masked.shape)), None

    def revise(codes: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        block = wanted & (blocks == number % 2 ** len(grid))[None]
        found = scores(codes, block, jnp.float32(1.0))
        step_keys = keys_of(decoding.steps + number)
        drawn, _ = _draw(found, step_keys[:, 0], decoding.refinement_temperature, decoding.top_k)
        return jnp.where(block, drawn.reshape(codes.shape), codes), None

    (codes, _), _ = jax.lax.scan(step, (codes, masked), jnp.arange(decoding.steps))
    if decoding.refinement_steps:
        codes, _ = jax.lax.scan(revise, codes, jnp.arange(decoding.refinement_steps))
    return codes


def _blocks(grid: Sequence[int]) -> Int[np.ndarray, "*grid"]:
    """Which block of the refinement_steps each place belongs to: those alike in whether each coordinate is odd."""
    odd = np.indices(grid) % 2
    return sum(axis << i for i, axis in enumerate(odd))


def _draw(
    scores: Float[Array, "b n k"], keys: Any, temperature: float, top_k: int
) -> tuple[Int[Array, "b n"], Float[Array, "b n"]]:
    """A code a place, and the logarithm of its probability."""
    if 0 < top_k < scores.shape[-1]:
        lowest = jax.lax.top_k(scores, top_k)[0][..., -1:]
        scores = jnp.where(scores < lowest, -jnp.inf, scores)
    scores /= temperature
    drawn = jax.vmap(lambda key, rows: jax.random.categorical(key, rows))(keys, scores)
    chances = jax.nn.log_softmax(scores)
    return drawn, jnp.take_along_axis(chances, drawn[..., None], axis=-1)[..., 0]


def halton_ranks(grid: Sequence[int]) -> Int[np.ndarray, "n"]:
    """The order in which the Halton sequence (1960) visits the places of a grid, read row by row.

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
    """The digits of the number in that base, mirrored at the point."""
    result, weight = 0.0, 1.0 / base
    while number:
        number, digit = divmod(number, base)
        result += digit * weight
        weight /= base
    return result
