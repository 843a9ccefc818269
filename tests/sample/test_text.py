"""Text generation against enumeration of all texts and the definition of each method."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.sample.text import TextDecoding, generate_text, nucleus
from mmjax.types import END

VOCABULARY, LENGTH = 5, 4


def toy(seed: int, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """A language in which the next token depends on the last and on the place: logits of the first, then of others."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, VOCABULARY)), 2 * rng.normal(size=(count, LENGTH, VOCABULARY, VOCABULARY))


def written(first: np.ndarray, after: np.ndarray, writing: TextDecoding, seeds: Any = None) -> np.ndarray:
    table = jnp.asarray(after, jnp.float32)

    def step(token: jax.Array, cache: Any) -> Any:
        row, place = cache
        place = place + 1
        return table[row, jnp.minimum(place, LENGTH - 1), token], (row, place)

    def run(first: jax.Array, seeds: jax.Array) -> jax.Array:
        cache = (jnp.arange(len(after)), jnp.zeros(len(after), jnp.int32))
        return generate_text(
            first, cache, step, lambda cache, rows: jax.tree.map(lambda x: x[rows], cache), writing, seeds
        )

    seeds = np.arange(len(first), dtype=np.int32) if seeds is None else seeds
    return np.asarray(jax.jit(run)(jnp.asarray(first, jnp.float32), seeds))


def score(text: tuple[int, ...], first: np.ndarray, after: np.ndarray, penalty: float) -> float:
    total, logits = 0.0, first
    for place, token in enumerate(text):
        total += logits[token] - np.log(np.exp(logits).sum())
        logits = after[min(place + 1, LENGTH - 1), token]
    return total / ((5 + len(text)) / 6) ** penalty


def all_texts() -> list[tuple[int, ...]]:
    """Those that end, and those that fill the length without."""
    found = []
    for length in range(1, LENGTH + 1):
        for text in itertools.product(range(VOCABULARY), repeat=length):
            ends = [i for i, token in enumerate(text) if token == END]
            if ends == [length - 1] or (not ends and length == LENGTH):
                found.append(text)
    return found


@pytest.mark.parametrize("penalty", [0.0, 0.6])
def test_full_beam_search_finds_the_optimum(penalty: float) -> None:
    first, after = toy(1, count=13)
    found = written(first, after, TextDecoding(length=LENGTH, beams=VOCABULARY**LENGTH, length_penalty=penalty))
    lengths = set()
    for row, mine in enumerate(found):
        best = max(all_texts(), key=lambda text: score(text, first[row], after[row], penalty))
        assert tuple(mine[: len(best)]) == best and not mine[len(best) :].any()
        lengths.add(len(best))
    assert len(lengths) > 1  # texts of several lengths, or the penalty would not show


def test_more_beams_are_never_worse() -> None:
    for seed in range(2):  # each compiles for each number of beams
        first, after = toy(seed, count=7)
        scores = []
        for beams in (1, 2, 625):
            found = written(first, after, TextDecoding(length=LENGTH, beams=beams, length_penalty=0.0))
            texts = [row[: list(row).index(END) + 1] if END in row else row for row in found]
            scores.append([score(tuple(t), first[i], after[i], 0.0) for i, t in enumerate(texts)])
        assert (np.array(scores) <= np.array(scores[-1]) + 1e-5).all()  # the last one is exhaustive


def test_greedy_takes_the_likeliest_token() -> None:
    first, after = toy(2, count=11)
    found = written(first, after, TextDecoding(length=LENGTH))
    for row, mine in enumerate(found):
        logits, expected = first[row], []
        for place in range(LENGTH):
            expected.append(int(np.argmax(logits)))
            if expected[-1] == END:
                break
            logits = after[row, min(place + 1, LENGTH - 1), expected[-1]]
        assert list(mine) == expected + [0] * (LENGTH - len(expected))


def test_nucleus_is_the_smallest_set() -> None:
    logits = np.random.default_rng(3).normal(size=(7, 11))
    for share in (0.01, 0.3, 0.9, 1.0):
        kept = np.isfinite(np.asarray(jax.jit(nucleus, static_argnums=1)(jnp.asarray(logits, jnp.float32), share)))
        for row, mask in zip(logits, kept, strict=True):
            chances = np.exp(row) / np.exp(row).sum()
            order = np.argsort(-chances)
            count = int(np.searchsorted(np.cumsum(chances[order]), share - 1e-6)) + 1
            assert sorted(np.flatnonzero(mask)) == sorted(order[:count])


def test_samples_match_the_probabilities_and_depend_on_their_seed() -> None:
    first, after = toy(4, count=1)
    count = 4000
    many = [np.repeat(x, count, axis=0) for x in (first, after)]
    seeds = np.arange(count, dtype=np.int32)
    found = written(*many, TextDecoding(length=LENGTH, top_p=1.0, temperature=2.0), seeds)
    chances = np.exp(first[0] / 2) / np.exp(first[0] / 2).sum()
    share = np.bincount(found[:, 0], minlength=VOCABULARY) / count
    assert np.abs(share - chances).max() < 4 * np.sqrt(0.25 / count)
    order = np.random.default_rng(0).permutation(count)
    again = written(*many, TextDecoding(length=LENGTH, top_p=1.0, temperature=2.0), seeds[order])
    np.testing.assert_array_equal(again, found[order])
    truncated = written(*many, TextDecoding(length=LENGTH, top_p=0.01), seeds)
    np.testing.assert_array_equal(truncated, np.repeat(truncated[:1], count, axis=0))  # the likeliest alone


def test_stops_once_all_texts_ended() -> None:
    turns = []

    def step(token: jax.Array, cache: Any) -> Any:
        jax.debug.callback(lambda: turns.append(1))
        return jnp.full((2, VOCABULARY), 0.0).at[:, END].set(9.0), cache

    for beams in (1, 3):
        first = jnp.zeros((2, VOCABULARY)).at[:, 4].set(5.0)
        writing = TextDecoding(length=40, beams=beams, length_penalty=0.0)
        found = jax.jit(lambda first, w=writing: generate_text(
            first, (), step if w.beams == 1 else lambda t, c: (jnp.repeat(step(t, c)[0], 3, axis=0), c),
            lambda cache, rows: cache, w, jnp.zeros(2, jnp.int32)
        ))(first)  # fmt: skip
        jax.effects_barrier()
        assert np.asarray(found)[:, :3].tolist() == [[4, END, 0]] * 2
        assert len(turns) <= 4
        turns.clear()
