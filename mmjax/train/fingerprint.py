"""Fingerprints of arrays: checksums of all bits that do not depend on the sharding.

The fingerprint of an array is the sum over its elements u, read as unsigned integers, of
(u + 1) * (2 * i * 2654435761 + 1) modulo 2 ** 32, where i is the index in the flattened array. The factors are odd, so
that any single changed bit changes the sum.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from mmjax.types import leaf_name

FACTOR = 2 * 2654435761 % 2**32
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32}


def names(tree: Any) -> list[str]:
    """The names of a tree's leaves, in the order of `summarize`."""
    return sorted(leaf_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree))


def summarize(tree: Any, replicated: jax.sharding.Sharding) -> tuple[jax.Array, jax.Array]:
    """The fingerprint of each leaf, uint32 [leaves], and whether it is finite, bool [leaves].

    Args:
        tree: arrays on the devices, with elements of at most four bytes.
        replicated: the sharding of the result.
    """
    return _compiled(replicated)(tree)


@functools.lru_cache
def _compiled(replicated: jax.sharding.Sharding) -> Any:
    def summary(tree: Any) -> tuple[jax.Array, jax.Array]:
        leaves = sorted((leaf_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree))
        numbers = jnp.stack([_fingerprint(leaf) for _, leaf in leaves])
        return numbers, jnp.stack([_reduced(jnp.all, jnp.isfinite(leaf)) for _, leaf in leaves])

    return jax.jit(summary, out_shardings=replicated)


def _fingerprint(leaf: jax.Array) -> jax.Array:
    leaf = leaf.astype(jnp.uint8) if leaf.dtype == jnp.bool_ else leaf
    bits = lax.bitcast_convert_type(leaf, UNSIGNED[leaf.dtype.itemsize]).astype(jnp.uint32)
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for axis in range(leaf.ndim):  # by dimension: flattening would gather the array
        stride = np.uint32(math.prod(leaf.shape[axis + 1 :]) * FACTOR % 2**32)
        place += lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * stride
    return _reduced(functools.partial(jnp.sum, dtype=jnp.uint32), (bits + np.uint32(1)) * (place + np.uint32(1)))


def _reduced(reduce: Callable[..., jax.Array], terms: jax.Array) -> jax.Array:
    """Reduces the last axis first: XLA reduces rows in parallel on a CPU's cores, but a whole array on one core."""
    rows = reduce(terms, axis=tuple(range(terms.ndim))[-1:])
    return reduce(lax.optimization_barrier(rows))  # else XLA merges the two reductions


def of_array(leaf: np.ndarray) -> int:
    """The fingerprint of a NumPy array."""
    bits = np.ascontiguousarray(leaf).reshape(-1).view(UNSIGNED[leaf.dtype.itemsize]).astype(np.uint32)
    places = np.arange(bits.size, dtype=np.uint32) * np.uint32(FACTOR)
    return int(np.sum((bits + np.uint32(1)) * (places + np.uint32(1)), dtype=np.uint32))
