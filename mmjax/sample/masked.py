"""Sampling of masked visual tokens: MaskGIT decoding as one compiled loop.

Generation, inpainting, outpainting, variation and continuation differ only in which tokens are masked at first.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmjax.config import SamplingConfig
from mmjax.types import Params

BASES = (2, 3, 5)  # of the Halton sequence, one for each axis


@dataclass(frozen=True)
class MaskGITDecoding:
    """Settings of MaskGIT decoding, all of them static.

    Attributes:
        steps: number of forward passes.
        order: "confidence" unmasks the most confident tokens first (Chang et al. 2022, arXiv:2202.04200), "halton"
            spreads them evenly over the grid (Besnier et al. 2025, arXiv:2503.17076).
        guided: use classifier-free guidance, with a second pass without the text.
        guidance_schedule: "linear" raises the guidance scale over the steps from 1, "constant" keeps it.
        temperature: of token sampling.
        confidence_temperature: of the Gumbel noise on the confidence; annealed to 0 over the steps.
        top_k: sample only from the k likeliest codes; 0: from all.
        refinement_steps: number of blocked Gibbs steps after all tokens are unmasked. Each resamples a block of tokens
            (a quarter of an image's, an eighth of a clip's, no two of them adjacent) given all others, which corrects
            inconsistencies of tokens sampled in parallel.
        refinement_temperature: of token sampling in refinement.
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


def decoding(config: SamplingConfig) -> MaskGITDecoding:
    """The decoding settings of a config."""
    fields = dataclasses.asdict(config)
    guidance = fields.pop("guidance")
    del fields["kind"]
    return MaskGITDecoding(**fields, guided=guidance not in (0, 1))


@runtime_checkable
class GeneratorFns(Protocol):
    """The functions of a masked generator and its visual tokenizer; see models/masked_generator.ModelFns."""

    @property
    def context(self) -> Callable[..., Any]: ...

    @property
    def logits(self) -> Callable[..., jax.Array]: ...

    @property
    def decode(self) -> Callable[..., jax.Array]: ...


def make_sampler(model_fns: GeneratorFns, decoding: MaskGITDecoding) -> Callable[..., jax.Array]:
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
        texts = jnp.concatenate([text, jnp.zeros_like(text)]) if decoding.guided else text
        both = {name: jnp.concatenate([x, x]) if decoding.guided else x for name, x in conditions.items()}
        context = model_fns.context(params, texts, **both)

        def scores(codes: jax.Array, masked: jax.Array) -> jax.Array:
            logits: jax.Array = model_fns.logits(params, codes, masked, *context)
            return logits

        codes = maskgit_decode(scores, codes, masked, seeds, decoding, guidance)
        images: jax.Array = model_fns.decode(tokenizer_params, codes)
        return images

    return sample


def maskgit_decode(
    logits: Callable[[Int[Array, "g *grid"], Bool[Array, "g *grid"]], Float[Array, "g *grid k"]],
    codes: Int[Array, "b *grid"],
    masked: Bool[Array, "b *grid"],
    seeds: Int[Array, "b"],
    decoding: MaskGITDecoding,
    guidance: Float[Array, ""] | None = None,
) -> Int[Array, "b *grid"]:
    """Samples the masked codes.

    After step i of n about cos(pi / 2 * (i + 1) / n) of the initially masked tokens are still masked; each step unmasks
    at least one, if any is left. Each example is sampled with its own key, and does not depend on the others.

    Args:
        logits: predicts every code; called once in each step. With decoding.guided it gets the examples twice, first
            with their text, then without: guided logits are none + guidance * (text - none) (Ho and Salimans 2022,
            arXiv:2207.12598).
        codes: the values at masked positions are ignored.
        masked: the positions to sample.
        seeds: one for each example.
        guidance: scale at the last step.
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
        # The `remaining` least confident tokens stay masked.
        confidence = jnp.where(masked.reshape(count, -1), confidence, jnp.inf)
        rank = jnp.argsort(jnp.argsort(confidence, axis=1), axis=1)
        return (codes, (rank < remaining[:, None]).reshape(masked.shape)), None

    def refine(codes: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        block = wanted & (blocks == number % 2 ** len(grid))[None]
        found = scores(codes, block, jnp.float32(1.0))
        step_keys = keys_of(decoding.steps + number)
        drawn, _ = _draw(found, step_keys[:, 0], decoding.refinement_temperature, decoding.top_k)
        return jnp.where(block, drawn.reshape(codes.shape), codes), None

    (codes, _), _ = jax.lax.scan(step, (codes, masked), jnp.arange(decoding.steps))
    if decoding.refinement_steps:
        codes, _ = jax.lax.scan(refine, codes, jnp.arange(decoding.refinement_steps))
    return codes


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
