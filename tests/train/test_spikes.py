"""Steps that are skipped for their gradient, and the average that tells them."""

import jax.numpy as jnp
import numpy as np

from mmjax.train.spikes import DECAY, LEARNED, Norms, judged, no_norms


def after(norms: Norms, *values: float, factor: float = 5.0) -> tuple[Norms, list[bool]]:
    ordinary = []
    for value in values:
        norms, good = judged(norms, jnp.float32(value), factor)
        ordinary.append(bool(good))
    return norms, ordinary


def test_everything_is_ordinary_until_the_average_means_something() -> None:
    values = np.random.default_rng(0).uniform(1, 100, LEARNED).tolist()
    norms, ordinary = after(no_norms(), *values)
    assert all(ordinary) and int(norms.count) == LEARNED
    np.testing.assert_allclose(norms.average, np.mean(values), rtol=1e-5)


def test_a_spike_is_told_and_counts_only_in_part() -> None:
    norms, _ = after(no_norms(), *[2.0] * LEARNED)
    norms, ordinary = after(norms, 9.9, 10.1)
    assert ordinary == [True, True]  # the first raised the average a little
    norms, _ = after(no_norms(), *[2.0] * LEARNED)
    norms, ordinary = after(norms, 1000.0)
    assert ordinary == [False]
    average = (LEARNED / (LEARNED + 1)) * 2 + 10 / (LEARNED + 1)
    np.testing.assert_allclose(norms.average, average, rtol=1e-5)
    assert LEARNED / (LEARNED + 1) < DECAY


def test_what_is_not_finite_is_no_norm() -> None:
    norms, _ = after(no_norms(), *[2.0] * LEARNED)
    after_nan, ordinary = after(norms, float("nan"), float("inf"))
    assert ordinary == [False, False]
    np.testing.assert_array_equal(after_nan.average, norms.average)
    assert int(after_nan.count) == LEARNED


def test_the_average_follows_norms_that_have_grown_for_good() -> None:
    norms, _ = after(no_norms(), *[2.0] * LEARNED)
    _, ordinary = after(norms, *[40.0] * 60)
    assert not ordinary[0] and ordinary[-1]
