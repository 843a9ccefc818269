"""Hard negatives are sampled with the softmax probabilities of the products."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from mmjax.nn import hard_negatives as module
from mmjax.nn.hard_negatives import hard_negatives

COUNT = 7
RNG = np.random.default_rng(0)
ROWS, COLUMNS = RNG.normal(size=(2, COUNT, 3)).astype(np.float32)
GROUPS = np.array([0, 1, 2, 1, 4, 5, 6], np.uint32)
PRESENT = np.array([True, True, True, True, False, True, True])


@pytest.mark.parametrize("block", [3, 1024])
def test_frequencies_match_the_softmax(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    draws = 6000
    given = tuple(map(jnp.asarray, (ROWS, COLUMNS, GROUPS, PRESENT)))
    keys = jax.random.split(jax.random.key(0), (draws, COUNT))
    found = np.asarray(jax.jit(lambda keys: jax.lax.map(lambda each: hard_negatives(*given, each), keys))(keys))
    for row in range(COUNT):
        allowed = PRESENT & (GROUPS[row] != GROUPS)
        chances = softmax(np.where(allowed, ROWS[row].astype(float) @ COLUMNS.astype(float).T, -np.inf))
        share = np.bincount(found[:, row], minlength=COUNT) / draws
        assert np.abs(share - chances).max() < 4 * np.sqrt(0.25 / draws)
        assert (share[~allowed] == 0).all()


def test_without_a_negative_the_index_is_masked() -> None:
    given = tuple(map(jnp.asarray, (ROWS, COLUMNS)))
    same = jnp.zeros(COUNT, jnp.uint32)
    found = jax.jit(hard_negatives)(*given, same, jnp.asarray(PRESENT), jax.random.split(jax.random.key(0), COUNT))
    np.testing.assert_array_equal(found, np.arange(COUNT))  # itself, of its own group
