"""Writing text token after token: greedily, by beam search or at random, as one compiled loop that ends when all have.

The functions that are handed in compute the logits of the next token and keep what they computed before.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmjax.types import END, PADDING, Params

Step = Callable[[Int[Array, "b"], Any], tuple[Float[Array, "b v"], Any]]  # (tokens, cache) -> next logits, cache
GatherCache = Callable[[Any, Int[Array, "r"]], Any]  # (cache, rows) -> the cache of these rows


@dataclass(frozen=True)
class TextDecoding:
    """How tokens are chosen; every field is compiled in.

    Attributes:
        length: the most tokens of a text, the end token among them.
        beams: texts kept at a time by beam search; 1 takes the likeliest token at each place.
        length_penalty: of beam search: its texts are compared by their log-likelihood over ((5 + tokens) / 6) to the
            power of it (Wu et al. 2016, arXiv:1609.08144, equation 14); 0: by likelihood alone.
        top_p: above 0: draw from the likeliest tokens that together have this probability (Holtzman et al. 2019,
            arXiv:1904.09751), 1 from all.
        temperature: of what is drawn.
    """

    length: int
    beams: int = 1
    length_penalty: float = 0.6
    top_p: float = 0.0
    temperature: float = 1.0


def make_text_generator(model_fns: Any, writing: TextDecoding) -> Callable[..., jax.Array]:
    """The pure function write(params, image, question, seeds) -> token ids [b, t], not compiled.

    Args:
        functions: of the model: context(params, image, question) gives what the text is about, begin(params, context,
            length) the logits of the first token and a cache, step(params, token, cache) those of the next, and
            gather_cache(cache, rows) the cache of some rows.
    """

    def written(
        params: Params, image: Float[Array, "b *f y x c"], question: Int[Array, "b q"] | None, seeds: Int[Array, "b"]
    ) -> Int[Array, "b t"]:
        context = model_fns.context(params, image, question)
        first, cache = model_fns.prefill(params, context, writing.length)

        def step(token: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
            logits, cache = model_fns.step(params, token, cache)
            return logits, cache

        return generate_text(first, cache, step, model_fns.gather_cache, writing, seeds)

    return written


def generate_text(
    first: Float[Array, "b v"],
    cache: Any,
    step: Step,
    gather_cache: GatherCache,
    writing: TextDecoding,
    seeds: Int[Array, "b"],
) -> Int[Array, "b t"]:
    """Token ids of a text each, with its end token and padding behind it; without, where `length` tokens did not do.

    Args:
        first: logits of the first token.
        cache: what `step` needs to go on from there.
        step, gather_cache: see Step and RowsOf.
        seeds: what each text is drawn with, which depends on no other.
    """
    if writing.beams > 1:
        return beam_search(first, cache, step, gather_cache, writing)
    count, length = len(first), writing.length
    keys = jax.vmap(jax.random.key)(seeds.astype(jnp.uint32))

    def choose(logits: jax.Array, place: jax.Array) -> jax.Array:
        if writing.top_p == 0:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        likely = nucleus(logits / writing.temperature, writing.top_p)
        return jax.vmap(lambda key, row: jax.random.categorical(jax.random.fold_in(key, place), row))(
            keys, likely
        ).astype(jnp.int32)

    def cond_fn(state: Any) -> jax.Array:
        place, _, done, _, _ = state
        return (place < length) & ~jnp.all(done)

    def body_fn(state: Any) -> Any:
        place, logits, done, texts, cache = state
        token = jnp.where(done, PADDING, choose(logits, place))
        texts = jax.lax.dynamic_update_slice_in_dim(texts, token[:, None], place, 1)
        done |= token == END
        logits, cache = jax.lax.cond(
            (place + 1 < length) & ~jnp.all(done), lambda: step(token, cache), lambda: (logits, cache)
        )
        return place + 1, logits, done, texts, cache

    texts = jnp.full((count, length), PADDING, jnp.int32)
    texts = jax.lax.while_loop(cond_fn, body_fn, (jnp.int32(0), first, jnp.zeros(count, jnp.bool_), texts, cache))[3]
    return texts


def nucleus(logits: Float[Array, "b v"], share: float) -> Float[Array, "b v"]:
    """The logits of the likeliest tokens that have at least this share of the probability; others are -inf.

    The likeliest is always kept.
    """
    order = jnp.sort(logits, axis=-1, descending=True)
    before = jnp.cumsum(jax.nn.softmax(order), axis=-1) - jax.nn.softmax(order)
    kept = jnp.sum(before < share, axis=-1, keepdims=True)
    least = jnp.take_along_axis(order, jnp.maximum(kept - 1, 0), axis=-1)
    return jnp.where(logits >= least, logits, -jnp.inf)


def beam_search(
    first: Float[Array, "b v"], cache: Any, step: Step, gather_cache: GatherCache, writing: TextDecoding
) -> Int[Array, "b t"]:
    """The best of the texts that beam search finds.

    Each step takes the best `beams` continuations that do not end, and remembers the best `beams` texts that ended. It
    stops once no continuation can be better than those.
    """
    count, vocabulary = first.shape
    beams, length = writing.beams, writing.length
    grow = min(2 * beams, beams * vocabulary)  # of which at most `beams` end

    def penalty(tokens: jax.Array) -> jax.Array:
        return ((5.0 + tokens.astype(jnp.float32)) / 6.0) ** writing.length_penalty

    def cond_fn(state: Any) -> jax.Array:
        place, _, alive, _, ended, _, _ = state
        # A score only falls as a text grows, and its penalty divides it by this much at most.
        hope = jnp.max(alive, axis=1) / penalty(jnp.int32(length))
        return (place < length) & jnp.any(hope > jnp.min(ended, axis=1))

    def body_fn(state: Any) -> Any:
        place, logits, alive, texts, ended, kept, cache = state
        chances = jax.nn.log_softmax(logits.reshape(count, beams, vocabulary))
        scores, found = jax.lax.top_k((alive[..., None] + chances).reshape(count, -1), grow)
        parent, token = found // vocabulary, (found % vocabulary).astype(jnp.int32)
        grown = jnp.take_along_axis(texts, parent[..., None], axis=1)
        grown = jax.lax.dynamic_update_slice_in_dim(grown, token[..., None], place, 2)
        ends = (token == END) | (place + 1 == length)
        final = jnp.concatenate([ended, jnp.where(ends, scores / penalty(place + 1), -jnp.inf)], axis=1)
        ended, best = jax.lax.top_k(final, beams)
        kept = jnp.take_along_axis(jnp.concatenate([kept, grown], axis=1), best[..., None], axis=1)
        alive, best = jax.lax.top_k(jnp.where(ends, -jnp.inf, scores), beams)
        texts = jnp.take_along_axis(grown, best[..., None], axis=1)
        parent = jnp.take_along_axis(parent, best, axis=1) + beams * jnp.arange(count)[:, None]
        token = jnp.take_along_axis(token, best, axis=1)
        logits, cache = step(token.reshape(-1), gather_cache(cache, parent.reshape(-1)))
        return place + 1, logits, alive, texts, ended, kept, cache

    rows = jnp.repeat(jnp.arange(count), beams)
    alone = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf)  # all beams are the same at first: one of them counts
    state = (
        jnp.int32(0),
        first[rows],
        jnp.broadcast_to(alone[None], (count, beams)),
        jnp.full((count, beams, length), PADDING, jnp.int32),
        jnp.full((count, beams), -jnp.inf),
        jnp.full((count, beams, length), PADDING, jnp.int32),
        gather_cache(cache, rows),
    )
    return jax.lax.while_loop(cond_fn, body_fn, state)[5][:, 0]
