"""Operations of small programs, counted by hand."""

import jax
import jax.numpy as jnp
import pytest

from mmjax.plan.flops import traced


def zeros(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_matrix_products_forward_and_backward() -> None:
    a, b = zeros(3, 5, 7), zeros(3, 7, 11)
    assert traced(jnp.matmul, a, b) == 2 * 3 * 5 * 7 * 11
    both = jax.grad(lambda a, b: jnp.sum(a @ b), argnums=(0, 1))
    assert traced(both, a, b) == 2 * 2 * 3 * 5 * 7 * 11 + traced(jnp.matmul, a, b)


def test_loops_count_by_trip_count_and_remat_twice() -> None:
    def layers(x: jax.Array, keep: bool) -> jax.Array:
        def layer(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jnp.tanh(x @ x), None

        return jnp.sum(jax.lax.scan(layer if keep else jax.checkpoint(layer), x, None, length=5)[0])

    product = 2 * 7**3
    assert traced(lambda x: layers(x, True), zeros(7, 7)) == 5 * product
    assert traced(jax.grad(lambda x: layers(x, True)), zeros(7, 7)) == 15 * product
    assert traced(jax.grad(lambda x: layers(x, False)), zeros(7, 7)) == 20 * product


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_forward_and_backward(stride: int) -> None:
    """The gradients of a convolution do as many useful multiplications as itself, also where they spread zeros."""

    def convolve(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    x, w = zeros(3, 8, 8, 5), zeros(4, 4, 5, 7)
    once = 2 * 3 * (8 // stride) ** 2 * 7 * 4 * 4 * 5
    assert traced(convolve, x, w) == once
    both = jax.grad(lambda x, w: jnp.sum(jnp.square(convolve(x, w))), argnums=(0, 1))
    assert traced(both, x, w) == 3 * once


def test_pallas_kernels_count_by_their_grid() -> None:
    from jax.experimental import pallas as pl

    def kernel(x: jax.Array, y: jax.Array, out: jax.Array) -> None:
        out[...] = jnp.dot(x[...], y[...])

    spec = pl.BlockSpec((8, 8), lambda i: (i, 0))
    product = pl.pallas_call(
        kernel,
        jax.ShapeDtypeStruct((24, 8), jnp.float32),
        grid=(3,),
        in_specs=[spec, pl.BlockSpec((8, 8), lambda i: (0, 0))],
        out_specs=spec,
        interpret=True,
    )
    assert traced(product, zeros(24, 8), zeros(8, 8)) == 2 * 24 * 8 * 8


def test_while_loop_of_unknown_trip_count() -> None:
    def until(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda x: jnp.sum(x) < 1.0, lambda x: x @ x, x)

    with pytest.raises(ValueError, match="unknown trip count"):
        traced(until, zeros(3, 3))
