"""The text decoder: one token at a time gives what the whole text gives."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.text_decoder import TextDecoder, gather_cache
from mmjax.sample.text import TextDecoding, generate_text

DECODER = TextDecoder(vocabulary=37, width=24, layers=2, heads=3)
LENGTH = 11
TEXT = jnp.asarray(np.random.default_rng(0).integers(5, 37, (3, LENGTH)), jnp.int32)
CONTEXT = jnp.asarray(np.random.default_rng(1).normal(size=(3, 7, 24)), jnp.float32)
FRESH = jax.jit(DECODER.init)(jax.random.key(0), TEXT, CONTEXT)
# Fresh ones say the last token over and over.
PARAMS = jax.tree_util.tree_map_with_path(lambda path, x: 0.2 * x if "embedding" in str(path) else 3 * x, FRESH)


def test_no_token_sees_itself_or_a_later_one() -> None:
    def total(table_of_text: jax.Array, place: int) -> jax.Array:
        # The text as a choice of rows of the embedding, so that there is a gradient with respect to each token.
        params = {"params": {**PARAMS["params"], "embedding": table_of_text}}
        text = jnp.arange(5, 5 + LENGTH, dtype=jnp.int32)[None]
        hidden = DECODER.apply(params, text, CONTEXT[:1])
        return hidden[0, place, 0] - hidden[0, place, 1]

    for place in (0, 4, LENGTH - 1):
        slope = jax.jit(jax.grad(total), static_argnums=1)(PARAMS["params"]["embedding"], place)
        seen = np.flatnonzero(np.abs(np.asarray(slope)).sum(1) > 0)
        # Rows 0 and 1 are those of the logits, row 2 is the begin token.
        assert set(seen) == {0, 1, 2, *range(5, 5 + place)}


def test_step_by_step_gives_the_logits_of_the_whole() -> None:
    whole = jax.jit(DECODER.apply)(PARAMS, TEXT, CONTEXT)
    begin = jax.jit(lambda context: DECODER.apply(PARAMS, context, LENGTH, method="prefill"))
    step = jax.jit(lambda token, cache: DECODER.apply(PARAMS, token, cache, method="step"))
    logits, cache = begin(CONTEXT)
    for place in range(LENGTH):
        np.testing.assert_allclose(logits, whole[:, place], atol=2e-5)
        if place + 1 < LENGTH:
            logits, cache = step(TEXT[:, place], cache)
    assert int(cache.length) == LENGTH


def test_the_context_matters() -> None:
    whole = jax.jit(DECODER.apply)(PARAMS, TEXT, CONTEXT)
    assert np.abs(jax.jit(DECODER.apply)(PARAMS, TEXT, CONTEXT + 1) - whole).max() > 1e-3


@pytest.mark.parametrize(
    "writing", [TextDecoding(length=LENGTH), TextDecoding(length=LENGTH, beams=4, length_penalty=0.0)]
)
def test_writes_with_its_cache_what_it_writes_without(writing: TextDecoding) -> None:
    seeds = jnp.zeros(3, jnp.int32)

    def cached() -> jax.Array:
        first, cache = DECODER.apply(PARAMS, CONTEXT, LENGTH, method="prefill")
        step = lambda token, cache: DECODER.apply(PARAMS, token, cache, method="step")  # noqa: E731
        return generate_text(first, cache, step, gather_cache, writing, seeds)

    def logits(texts: jax.Array, rows: jax.Array, place: Any) -> jax.Array:
        return jax.lax.dynamic_index_in_dim(DECODER.apply(PARAMS, texts, CONTEXT[rows]), place, axis=1, keepdims=False)

    def uncached() -> jax.Array:
        def step(token: jax.Array, cache: Any) -> Any:
            texts, rows, place = cache
            texts = jax.lax.dynamic_update_slice_in_dim(texts, token[:, None], place, 1)
            return logits(texts, rows, place + 1), (texts, rows, place + 1)

        texts, rows = jnp.zeros((3, LENGTH), jnp.int32), jnp.arange(3)
        of = lambda cache, chosen: (cache[0][chosen], cache[1][chosen], cache[2])  # noqa: E731
        return generate_text(logits(texts, rows, 0), (texts, rows, jnp.int32(0)), step, of, writing, seeds)

    found = np.asarray(jax.jit(cached)())
    np.testing.assert_array_equal(found, jax.jit(uncached)())
    assert len({tuple(row) for row in found.tolist()}) == 3
