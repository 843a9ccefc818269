"""How layers shard their activations without knowing the mesh."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

Kernel = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def _identity(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Partitioner:
    """The sharding of a model's activations; by default unsharded, or as the compiler chooses.

    Attributes:
        with_sharding_constraint: constrains activations [b, t, d] to their sharding.
        shard_map: maps an attention kernel of (q, k, v), each [b, t, h, k], over the devices, each with its own
            examples and heads.
    """

    with_sharding_constraint: Callable[[jax.Array], jax.Array] = _identity
    shard_map: Callable[[Kernel], Kernel] = _identity


UNSHARDED = Partitioner()
