"""Dense layers."""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from jax import lax
from jaxtyping import Array, Float

from mmjax.nn.compute import Compute


def dense(features: int, compute: Compute, name: str | None = None, bias: bool = True) -> nn.Dense:
    """A dense layer on the last axis."""
    return nn.Dense(features, bias, dtype=compute.dtype, dot_general=dot_general(compute), name=name)


def dot_general(compute: Compute) -> Callable[..., jax.Array]:
    """The dot_general of dense layers."""
    return flat_dot_general if compute.dense == "flat" else lax.dot_general


def flat_dot_general(
    x: Float[Array, "..."], kernel: Float[Array, "..."], dimension_numbers: Any, **kwargs: Any
) -> Float[Array, "..."]:
    """lax.dot_general of the last axes of x with the first of a kernel, as a product of two matrices.

    With more axes XLA on CPUs is up to twice as slow. Elsewhere this has no use: the reshape hides from the
    partitioner which axis is sharded.
    """
    (contracted, of_kernel), batch = dimension_numbers
    count = len(contracted)
    first = x.ndim - count
    assert tuple(contracted) == tuple(range(first, x.ndim)) and tuple(of_kernel) == tuple(range(count))
    assert not any(batch)
    inner = math.prod(x.shape[first:])
    product: jax.Array = lax.dot(x.reshape(-1, inner), kernel.reshape(inner, -1), **kwargs)
    return product.reshape(*x.shape[:first], *kernel.shape[count:])
