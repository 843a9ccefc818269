"""The text decoder: one token at a time gives what the whole text gives."""

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.models.text_decoder import TextDecoder, rows_of
from mmjax.sample.text import Writing, write

DECODER = TextDecoder(vocabulary=37, width=24, layers=2, heads=3)
LENGTH = 11
TEXT = np.random.default_rng(0).integers(5, 37, (3, LENGTH)).astype(np.int32)
CONTEXT = np.random.default_rng(1).normal(size=(3, 7, 24)).astype(np.float32)
MASK = (np.arange(7)[None] < np.array([[7], [3], [1]]))[:, None, None]
PARAMS = jax.jit(DECODER.init)(jax.random.key(0), TEXT, CONTEXT, MASK)


def test_no_token_sees_itself_or_a_later_one() -> None:
    def total(table_of_text: jax.Array, place: int) -> jax.Array:
        # The text as a choice of rows of the embedding, so that there is a gradient with respect to each token.
        params = {"params": {**PARAMS["params"], "table": table_of_text}}
        text = np.arange(5, 5 + LENGTH, dtype=np.int32)[None]
        hidden = DECODER.apply(params, text, CONTEXT[:1], MASK[:1])
        return hidden[0, place, 0] - hidden[0, place, 1]

    for place in (0, 4, LENGTH - 1):
        slope = jax.jit(jax.grad(total), static_argnums=1)(PARAMS["params"]["table"], place)
        seen = np.flatnonzero(np.abs(np.asarray(slope)).sum(1) > 0)
        # Rows 0 and 1 are those of the logits, row 2 is the begin token.
        assert set(seen) == {0, 1, 2, *range(5, 5 + place)}


def test_step_by_step_gives_the_logits_of_the_whole() -> None:
    whole = jax.jit(DECODER.apply)(PARAMS, TEXT, CONTEXT, MASK)
    begin = jax.jit(lambda context, mask: DECODER.apply(PARAMS, context, mask, LENGTH, method="begin"))
    step = jax.jit(lambda token, cache: DECODER.apply(PARAMS, token, cache, method="step"))
    logits, cache = begin(CONTEXT, MASK)
    for place in range(LENGTH):
        np.testing.assert_allclose(logits, whole[:, place], atol=2e-5)
        if place + 1 < LENGTH:
            logits, cache = step(TEXT[:, place], cache)
    assert int(cache.written) == LENGTH


def test_the_context_matters_where_it_is_seen() -> None:
    whole = jax.jit(DECODER.apply)(PARAMS, TEXT, CONTEXT, MASK)
    changed = np.where(MASK[:, 0, 0, :, None], CONTEXT, 9.0)
    np.testing.assert_array_equal(jax.jit(DECODER.apply)(PARAMS, TEXT, changed, MASK), whole)
    assert np.abs(jax.jit(DECODER.apply)(PARAMS, TEXT, CONTEXT + 1, MASK) - whole).max() > 1e-3


def test_writes_with_its_cache_what_it_writes_without() -> None:
    def cached(context: jax.Array, mask: jax.Array, writing: Writing) -> jax.Array:
        first, cache = DECODER.apply(PARAMS, context, mask, LENGTH, method="begin")
        step = lambda token, cache: DECODER.apply(PARAMS, token, cache, method="step")  # noqa: E731
        return write(first, cache, step, rows_of, writing, jnp.zeros(len(context), jnp.int32))

    apply = jax.jit(DECODER.apply)
    texts = np.zeros((3, LENGTH), np.int32)
    done = np.zeros(3, bool)
    for place in range(LENGTH):
        token = np.argmax(apply(PARAMS, texts, CONTEXT, MASK)[:, place], axis=1)
        texts[:, place] = np.where(done, 0, token)
        done |= token == 3
    found = jax.jit(cached, static_argnums=2)(CONTEXT, MASK, Writing(LENGTH))
    np.testing.assert_array_equal(found, texts)
    assert len({tuple(row) for row in texts.tolist()}) == 3
    # Beams carry their caches along: each text's log-likelihood is at least that of the greedy one.
    best = jax.jit(cached, static_argnums=2)(CONTEXT, MASK, Writing(LENGTH, beams=4, length_penalty=0.0))

    def likelihood(texts: np.ndarray) -> np.ndarray:
        chances = jax.nn.log_softmax(apply(PARAMS, texts, CONTEXT, MASK))
        each = np.take_along_axis(np.asarray(chances), np.asarray(texts)[..., None], axis=-1)[..., 0]
        return (each * (np.asarray(texts) != 0)).sum(1)

    assert (likelihood(best) >= likelihood(texts) - 1e-4).all()
