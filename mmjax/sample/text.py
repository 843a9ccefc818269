"""Autoregressive text generation: greedy, beam search or sampling, as one compiled loop."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmjax.config import Config, TextDecodingConfig
from mmjax.types import END, PADDING, Params

Step = Callable[[Int[Array, "b"], Any], tuple[Float[Array, "b v"], Any]]  # (tokens, cache) -> next logits, cache
GatherCache = Callable[[Any, Int[Array, "r"]], Any]  # (cache, rows) -> cache of these rows


@dataclass(frozen=True, kw_only=True)
class TextDecoding(TextDecodingConfig):
    """Settings of text generation, all of them static.

    Attributes:
        length: maximum number of tokens, including the end token.
    """

    length: int

    @classmethod
    def of(cls, config: Config) -> "TextDecoding":
        """How a config decodes captions and answers."""
        return cls(length=config.text.length, **dataclasses.asdict(config.text_decoding))


@runtime_checkable
class DecoderFns(Protocol):
    """The functions of a model with a text decoder; see models/vision_language.ModelFns."""

    context: Callable[..., Any]
    prefill: Callable[..., Any]
    step: Callable[..., Any]
    gather_cache: Callable[..., Any]


def make_text_generator(model_fns: DecoderFns, decoding: TextDecoding) -> Callable[..., jax.Array]:
    """The pure function generate(params, image, seeds, question=None) -> token ids [b, t], to be compiled.

    Args:
        model_fns: context(params, image, question) encodes the image, prefill(params, context, length) gives the logits
            of the first token and a KV cache, step(params, token, cache) those of the next token, and
            gather_cache(cache, rows) the cache of these rows.
    """

    def generate(
        params: Params,
        image: Float[Array, "b *f y x c"],
        seeds: Int[Array, "b"],
        question: Int[Array, "b q"] | None = None,
    ) -> Int[Array, "b t"]:
        context = model_fns.context(params, image, question)
        first, cache = model_fns.prefill(params, context, decoding.length)
        step = functools.partial(model_fns.step, params)
        return generate_text(first, cache, step, model_fns.gather_cache, decoding, seeds)

    return generate


def generate_text(
    first: Float[Array, "b v"],
    cache: Any,
    step: Step,
    gather_cache: GatherCache,
    decoding: TextDecoding,
    seeds: Int[Array, "b"],
) -> Int[Array, "b t"]:
    """Generates the token ids of a text each, up to and including its end token, then padding.

    Args:
        first: logits of the first token.
        cache: the KV cache after prefill.
        step, gather_cache: see Step and GatherCache.
        seeds: one for each text, which does not depend on the others.
    """
    if decoding.beams > 1:
        return beam_search(first, cache, step, gather_cache, decoding)
    count, length = len(first), decoding.length
    keys = jax.vmap(jax.random.key)(seeds.astype(jnp.uint32))

    def sample(logits: jax.Array, index: jax.Array) -> jax.Array:
        if decoding.top_p == 0:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        likely = nucleus(logits / decoding.temperature, decoding.top_p)
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
        return jax.vmap(jax.random.categorical)(step_keys, likely).astype(jnp.int32)

    def cond_fn(state: Any) -> jax.Array:
        index, _, done, _, _ = state
        return (index < length) & ~jnp.all(done)

    def body_fn(state: Any) -> Any:
        index, logits, done, texts, cache = state
        token = jnp.where(done, PADDING, sample(logits, index))
        texts = jax.lax.dynamic_update_slice_in_dim(texts, token[:, None], index, 1)
        done |= token == END
        logits, cache = jax.lax.cond(
            (index + 1 < length) & ~jnp.all(done), lambda: step(token, cache), lambda: (logits, cache)
        )
        return index + 1, logits, done, texts, cache

    texts = jnp.full((count, length), PADDING, jnp.int32)
    return jax.lax.while_loop(cond_fn, body_fn, (jnp.int32(0), first, jnp.zeros(count, jnp.bool_), texts, cache))[3]


def nucleus(logits: Float[Array, "b v"], top_p: float) -> Float[Array, "b v"]:
    """Keeps the logits of the likeliest tokens with at least this total probability; others become -inf.

    At least one token is kept (Holtzman et al. 2019, arXiv:1904.09751).
    """
    order = jnp.sort(logits, axis=-1, descending=True)
    before = jnp.cumsum(jax.nn.softmax(order), axis=-1) - jax.nn.softmax(order)
    kept = jnp.sum(before < top_p, axis=-1, keepdims=True)
    least = jnp.take_along_axis(order, jnp.maximum(kept - 1, 0), axis=-1)
    return jnp.where(logits >= least, logits, -jnp.inf)


def beam_search(
    first: Float[Array, "b v"], cache: Any, step: Step, gather_cache: GatherCache, decoding: TextDecoding
) -> Int[Array, "b t"]:
    """The best text found by beam search.

    Each step keeps the best `beams` unfinished and the best `beams` finished texts. It stops once no unfinished text
    can become better than the finished ones. Log-likelihoods are divided by ((5 + tokens) / 6) ** length_penalty (Wu
    et al. 2016, arXiv:1609.08144, equation 14).
    """
    count, vocabulary = first.shape
    beams, length = decoding.beams, decoding.length
    grow = min(2 * beams, beams * vocabulary)  # at most `beams` of which end here

    def penalty(tokens: jax.Array) -> jax.Array:
        return ((5.0 + tokens.astype(jnp.float32)) / 6.0) ** decoding.length_penalty

    def cond_fn(state: Any) -> jax.Array:
        index, _, alive, _, ended, _, _ = state
        # An upper bound: scores only fall, and no penalty is larger than that of the full length.
        bound = jnp.max(alive, axis=1) / penalty(jnp.int32(length))
        return (index < length) & jnp.any(bound > jnp.min(ended, axis=1))

    def body_fn(state: Any) -> Any:
        index, logits, alive, texts, ended, kept, cache = state
        log_probs = jax.nn.log_softmax(logits.reshape(count, beams, vocabulary))
        scores, found = jax.lax.top_k((alive[..., None] + log_probs).reshape(count, -1), grow)
        parent, token = found // vocabulary, (found % vocabulary).astype(jnp.int32)
        grown = jnp.take_along_axis(texts, parent[..., None], axis=1)
        grown = jax.lax.dynamic_update_slice_in_dim(grown, token[..., None], index, 2)
        ends = (token == END) | (index + 1 == length)
        final = jnp.concatenate([ended, jnp.where(ends, scores / penalty(index + 1), -jnp.inf)], axis=1)
        ended, best = jax.lax.top_k(final, beams)
        kept = jnp.take_along_axis(jnp.concatenate([kept, grown], axis=1), best[..., None], axis=1)
        alive, best = jax.lax.top_k(jnp.where(ends, -jnp.inf, scores), beams)
        texts = jnp.take_along_axis(grown, best[..., None], axis=1)
        parent = jnp.take_along_axis(parent, best, axis=1) + beams * jnp.arange(count)[:, None]
        token = jnp.take_along_axis(token, best, axis=1)
        logits, cache = step(token.reshape(-1), gather_cache(cache, parent.reshape(-1)))
        return index + 1, logits, alive, texts, ended, kept, cache

    rows = jnp.repeat(jnp.arange(count), beams)
    first_only = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf)  # all beams are equal at first
    state = (
        jnp.int32(0),
        first[rows],
        jnp.broadcast_to(first_only[None], (count, beams)),
        jnp.full((count, beams, length), PADDING, jnp.int32),
        jnp.full((count, beams), -jnp.inf),
        jnp.full((count, beams, length), PADDING, jnp.int32),
        gather_cache(cache, rows),
    )
    return jax.lax.while_loop(cond_fn, body_fn, state)[5][:, 0]
