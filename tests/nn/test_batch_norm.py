"""Batch normalization against NumPy in float64: valid examples, running averages, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.nn.norm import BatchNorm

X = np.random.default_rng(0).normal(3.0, 2.0, (7, 5, 3, 4)).astype(np.float32)
ROWS = np.arange(7) % 3 != 1
PARAMS = {
    "mean": jnp.array([1.0, 2.0, 3.0, 4.0]),
    "variance": jnp.array([4.0, 3.0, 2.0, 1.0]),
    "scale": jnp.array([1.0, 0.5, 2.0, 1.0]),
    "bias": jnp.array([0.0, 1.0, -1.0, 0.5]),
}


@jax.jit
def trained(x, rows=None):
    y, put = BatchNorm().apply({"params": PARAMS}, x, rows, True, mutable=["batch_stats"])
    return y, put["batch_stats"]


def expected(x, mean, variance):
    return (x - mean) / np.sqrt(variance + 1e-5) * np.asarray(PARAMS["scale"]) + np.asarray(PARAMS["bias"])


@pytest.mark.parametrize("rows", [None, ROWS])
def test_training_normalizes_by_valid_examples(rows):
    counted = X.astype(np.float64)[slice(None) if rows is None else rows]
    mean, variance = counted.mean((0, 1, 2)), counted.var((0, 1, 2))
    y, put = trained(X, rows)
    np.testing.assert_allclose(put["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(put["variance"], variance, rtol=1e-5)
    np.testing.assert_allclose(y, expected(X, mean, variance), atol=1e-5)


def test_invalid_examples_have_no_influence():
    other = np.where(ROWS[:, None, None, None], X, np.float32(1e6))
    jax.tree.map(np.testing.assert_array_equal, trained(other, ROWS)[1], trained(X, ROWS)[1])
    none = trained(X, np.zeros(7, bool))[1]
    jax.tree.map(np.testing.assert_array_equal, none, {name: PARAMS[name] for name in ("mean", "variance")})


def test_evaluation_normalizes_by_the_running_averages():
    y, put = jax.jit(lambda x: BatchNorm().apply({"params": PARAMS}, x, mutable=["batch_stats"]))(X)
    assert not put
    np.testing.assert_allclose(y, expected(X, np.arange(1, 5), np.arange(4, 0, -1)), atol=1e-5)


def test_running_averages_have_no_gradient():
    for training in (True, False):

        def total(params, training=training):
            y, _ = BatchNorm().apply({"params": params}, jnp.asarray(X), None, training, mutable=["batch_stats"])
            return jnp.sum(jnp.sin(y))

        grads = jax.jit(jax.grad(total))(PARAMS)
        np.testing.assert_array_equal(grads["mean"], 0)
        np.testing.assert_array_equal(grads["variance"], 0)
        assert np.abs(grads["scale"]).min() > 0.1


def test_gradients_equal_those_of_the_formula():
    """Those of the inputs too, which the mean and variance depend on."""

    def ours(x):
        y, _ = BatchNorm().apply({"params": PARAMS}, x, jnp.asarray(ROWS), True, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(y[np.flatnonzero(ROWS)]))

    def plain(x):
        x = x[np.flatnonzero(ROWS)]
        mean, variance = x.mean((0, 1, 2), keepdims=True), x.var((0, 1, 2), keepdims=True)
        y = (x - mean) / jnp.sqrt(variance + 1e-5) * PARAMS["scale"][None, None, None]
        return jnp.sum(jnp.sin(y + PARAMS["bias"][None, None, None]))

    np.testing.assert_allclose(jax.jit(jax.grad(ours))(X), jax.jit(jax.grad(plain))(X), atol=1e-5)
