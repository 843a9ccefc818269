"""Dense layers as products of two matrices equal those of any number of axes."""

import jax
import numpy as np
import pytest

from mmjax.nn.attention import MultiHeadAttention
from mmjax.nn.compute import Compute
from mmjax.nn.dense import dense

FORMS = ("native", "flat")


def both(module, *args):
    """Outputs and gradients of a module with native and flat dense layers, with the same parameters."""
    params = module("native").init(jax.random.key(0), *args)

    def loss(params, args, form):
        output = module(form).apply(params, *args)
        output = output[0] if isinstance(output, tuple) else output
        return (output * np.cos(np.arange(output.size, dtype=np.float32)).reshape(output.shape)).sum(), output

    return [
        jax.jit(jax.value_and_grad(lambda p, a, f=form: loss(p, a, f), (0, 1), True))(params, args) for form in FORMS
    ]


@pytest.mark.parametrize("shape", [(6,), (2, 6), (2, 5, 6), (2, 3, 4, 6)])
def test_flat_dense_layers_are_equal(shape: tuple[int, ...]) -> None:
    x = jax.random.normal(jax.random.key(1), shape)
    native, flat = both(lambda form: dense(7, Compute(dense=form)), x)
    assert native[0][1].shape == (*shape[:-1], 7)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), native, flat)


def test_flat_attention_is_equal() -> None:
    x, context = (jax.random.normal(jax.random.key(i), (2, n, 12)) for i, n in enumerate((5, 3)))
    native, flat = both(lambda form: MultiHeadAttention(3, Compute(dense=form)), x, context)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), native, flat)


def test_flat_products_have_two_axes() -> None:
    x = np.ones((2, 5, 6), np.float32)
    layer = dense(7, Compute(dense="flat"))
    jaxpr = jax.make_jaxpr(lambda x: layer.init_with_output(jax.random.key(0), x)[0])(x)
    products = [e for e in jaxpr.jaxpr.eqns if e.primitive.name == "dot_general"]
    assert [variable.aval.ndim for e in products for variable in e.invars] == [2, 2]
