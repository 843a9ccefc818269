"""Fingerprints of arrays: numbers that follow from every bit, and not from how an array lies on the devices.

A leaf's is the sum over its elements u, read as unsigned integers, of (u + 1) * (2 * i * 2654435761 + 1) modulo
2 ** 32, i being the element's place in the flat array. The factors are odd: one changed bit always changes the sum.
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
    """The names of a tree's leaves, in the order of `summarized`."""
    return sorted(leaf_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree))


def summarize(tree: Any, whole: jax.sharding.Sharding) -> tuple[jax.Array, jax.Array]:
    """The fingerprint of each leaf, uint32 [leaves], and whether all of it is finite, bool [leaves].

    Args:
        tree: arrays on the devices, of elements of at most four bytes.
        whole: the sharding of the result.
    """
    return _compiled(whole)(tree)


@functools.lru_cache
def _compiled(whole: jax.sharding.Sharding) -> Any:
    def summary(tree: Any) -> tuple[jax.Array, jax.Array]:
        leaves = sorted((leaf_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree))
        numbers = jnp.stack([_fingerprint(leaf) for _, leaf in leaves])
        return numbers, jnp.stack([_reduced(jnp.all, jnp.isfinite(leaf)) for _, leaf in leaves])

    return jax.jit(summary, out_shardings=whole)


def _fingerprint(leaf: jax.Array) -> jax.Array:
    leaf = leaf.astype(jnp.uint8) if leaf.dtype == jnp.bool_ else leaf
    bits = lax.bitcast_convert_type(leaf, UNSIGNED[leaf.dtype.itemsize]).astype(jnp.uint32)
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for axis in range(leaf.ndim):  # of each dimension by itself: an array that is flattened would have to be gathered
        stride = np.uint32(math.prod(leaf.shape[axis + 1 :]) * FACTOR % 2**32)
        place += lax.broadcasted_iota(jnp.uint32, leaf.shape, axis) * stride
    return _reduced(functools.partial(jnp.sum, dtype=jnp.uint32), (bits + np.uint32(1)) * (place + np.uint32(1)))


def _reduced(reduce: Callable[..., jax.Array], terms: jax.Array) -> jax.Array:
    """Rows first: XLA reduces them side by side on the cores of a processor, and all at once on a single one."""
    rows = reduce(terms, axis=tuple(range(terms.ndim))[-1:])
    return reduce(lax.optimization_barrier(rows))  # without it XLA merges the two reductions again


def of_array(leaf: np.ndarray) -> int:
    """The fingerprint of an array on the host."""
    bits = np.ascontiguousarray(leaf).reshape(-1).view(UNSIGNED[leaf.dtype.itemsize]).astype(np.uint32)
    places = np.arange(bits.size, dtype=np.uint32) * np.uint32(FACTOR)
    return int(np.sum((bits + np.uint32(1)) * (places + np.uint32(1)), dtype=np.uint32))
