"""Finite scalar quantization against the code in the paper's appendix."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.nn import fsq

LEVELS = [(8, 5, 5, 5), (7, 5, 5, 5, 5), (2, 3), (4,)]


def papers(z, levels):
    """Appendix A.1 of the paper, in float64."""
    levels = np.asarray(levels)
    half_l = (levels - 1) * (1 - 1e-3) / 2
    offset = np.where(levels % 2 == 1, 0.0, 0.5)
    shift = np.tan(offset / half_l)
    return np.round(np.tanh(z + shift) * half_l - offset) / (levels // 2)


@pytest.mark.parametrize("levels", LEVELS)
def test_equals_the_code_of_the_paper(levels):
    z = np.random.default_rng(0).normal(size=(997, len(levels))) * 3
    np.testing.assert_allclose(fsq.quantize(jnp.asarray(z, jnp.float32), levels), papers(z, levels), atol=1e-6)


def test_example_of_the_paper():
    """The example of the paper's code: levels 3, 5, 4 and one vector."""
    code = fsq.quantize(jnp.array([0.25, 0.6, -7.0]), (3, 5, 4))
    np.testing.assert_allclose(code, [0.0, 0.5, -1.0], atol=1e-6)
    assert int(fsq.to_indices(code, (3, 5, 4))) == 10


@pytest.mark.parametrize("levels", LEVELS)
def test_round_trip_is_exact_and_all_codes_are_reachable(levels):
    numbers = jnp.arange(math.prod(levels))
    codes = fsq.to_codes(numbers, levels)
    np.testing.assert_array_equal(fsq.to_indices(codes, levels), numbers)
    z = jax.random.normal(jax.random.key(0), (200 * math.prod(levels), len(levels))) * 2
    reached = fsq.to_indices(fsq.quantize(z, levels), levels)
    assert len(np.unique(reached)) == math.prod(levels)
    np.testing.assert_allclose(fsq.to_codes(reached, levels), fsq.quantize(z, levels), atol=1e-6)


def test_straight_through_gradients():
    z = jnp.array([[0.3, -1.2]])
    found = jax.grad(lambda z: jnp.sum(fsq.quantize(z, (5, 3))))(z)
    half = (np.array([5, 3]) - 1) * (1 - 1e-3) / 2
    np.testing.assert_allclose(found, (1 - np.tanh(np.asarray(z)) ** 2) * half / np.array([2, 1]), rtol=1e-5)
