"""Where activations lie on the devices, told by whoever knows the mesh: layers themselves know none."""

from collections.abc import Callable
from dataclasses import dataclass

import jax

Kernel = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def _same(x: jax.Array) -> jax.Array:
    return x


def _whole(kernel: Kernel) -> Kernel:
    return kernel


@dataclass(frozen=True)
class Partitioner:
    """How a model is spread over devices; the default is one device, or the compiler's choice.

    Attributes:
        constrain: says of activations [b, t, d] how they are split, and returns them.
        per_device: makes a kernel of (q, k, v), each [b, t, h, k], which the compiler cannot split, one that each
            device runs on its own examples and heads.
    """

    with_sharding_constraint: Callable[[jax.Array], jax.Array] = _same
    shard_map: Callable[[Kernel], Kernel] = _whole


UNSHARDED = Partitioner()
