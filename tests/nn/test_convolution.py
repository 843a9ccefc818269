"""Transposed convolutions against their definition as a scatter, and the adjoint of a convolution."""

import itertools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from mmjax.nn.convolution import Convolution, TransposedConvolution, convolution, transposed_convolution

FORMS = ("native", "matmul")


def scatter(x, kernel):
    """output[2 i + a - 1] += x[i] kernel[a] along every axis, in float64."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    rank = x.ndim - 2
    whole = np.zeros((x.shape[0], *(2 * n + 2 for n in x.shape[1:-1]), kernel.shape[-1]))
    for place in np.ndindex(*x.shape[1:-1]):
        for tap in itertools.product(range(4), repeat=rank):
            target = tuple(2 * i + a for i, a in zip(place, tap, strict=True))
            whole[(slice(None), *target)] += x[(slice(None), *place)] @ kernel[tap]
    return whole[(slice(None), *(slice(1, -1),) * rank)]


@pytest.mark.parametrize("implementation", FORMS)
@settings(max_examples=6)
@given(sides=st.sampled_from([(1,), (5,), (3, 2), (2, 1, 5)]), seed=st.integers(0, 99))  # few shapes: each compiles
def test_equals_the_definition_for_any_rank(implementation, sides, seed):
    rng = np.random.default_rng(seed)
    x, kernel = (rng.normal(size=shape).astype(np.float32) for shape in ((2, *sides, 3), (*(4,) * len(sides), 3, 5)))
    found = jax.jit(transposed_convolution, static_argnums=2)(x, kernel, implementation)
    np.testing.assert_allclose(found, scatter(x, kernel), atol=1e-4)


@pytest.mark.parametrize("implementation", FORMS)
def test_transposed_convolution_is_the_adjoint(implementation):
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, 5, 7, 3))
    y = jax.random.normal(keys[1], (2, 10, 14, 5))
    kernel = jax.random.normal(keys[2], (4, 4, 3, 5))
    down = jax.lax.conv_general_dilated(
        y, kernel.swapaxes(2, 3), (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    up = transposed_convolution(x, kernel, implementation)
    np.testing.assert_allclose(jnp.vdot(up, y), jnp.vdot(x, down), rtol=1e-4)


@pytest.mark.parametrize("sides", [(7,), (5, 3), (2, 5, 3)])
def test_implementations_have_equal_gradients(sides):
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (2, *sides, 3))
    kernel = jax.random.normal(keys[1], (*(4,) * len(sides), 3, 2))
    grads = [
        jax.jit(jax.grad(lambda x, k, f=implementation: jnp.sum(jnp.sin(transposed_convolution(x, k, f))), (0, 1)))(
            x, kernel
        )
        for implementation in FORMS
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), *grads)


@pytest.mark.parametrize("sides", [(7,), (5, 7), (3, 5, 7)])
def test_modules_of_any_rank(sides):
    x = jnp.ones((2, *sides, 3))
    same, params = jax.jit(Convolution(5).init_with_output)(jax.random.key(0), x)
    assert same.shape == (2, *sides, 5)
    assert params["params"]["kernel"].shape == (*(3,) * len(sides), 3, 5)
    double, _ = jax.jit(TransposedConvolution(5).init_with_output)(jax.random.key(0), x)
    assert double.shape == (2, *(2 * n for n in sides), 5)


def test_transposed_convolution_keeps_the_variance_at_initialization():
    x = jax.random.normal(jax.random.key(1), (16, 8, 8, 64))
    y, _ = jax.jit(TransposedConvolution(64).init_with_output)(jax.random.key(0), x)
    assert 0.9 < float(jnp.std(y[:, 2:-2, 2:-2])) < 1.1


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("window", "stride"),
    [
        ((3, 3), (1, 1)),
        ((4, 4), (2, 2)),
        ((2, 3), (2, 1)),
        ((1, 5), (1, 3)),
        ((3, 3, 3), (1, 1, 1)),
        ((4, 4, 4), (2, 2, 2)),
        ((1, 3, 2), (1, 1, 2)),
    ],
)
def test_implementations_are_equal(window: tuple[int, ...], stride: tuple[int, ...], causal: bool) -> None:
    sides = (7, 11, 8)[: len(window)]
    x = jax.random.normal(jax.random.key(0), (2, *sides, 3))
    kernel = jax.random.normal(jax.random.key(1), (*window, 3, 5))
    compiled = jax.jit(convolution, static_argnums=(2, 3, 4))
    native, matmul = (compiled(x, kernel, stride, causal, implementation) for implementation in ("native", "matmul"))
    assert native.shape == (2, *(-(-side // step) for side, step in zip(sides, stride, strict=True)), 5)
    np.testing.assert_allclose(native, matmul, atol=1e-4)
    if not causal and len(sides) == 2:
        padding = [((n - 1) // 2, n // 2) for n in window]
        same = jax.lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        np.testing.assert_allclose(native, same, atol=1e-4)
