"""Finite scalar quantization, FSQ (Mentzer et al. 2023, arXiv:2309.15505).

Each of the r channels is bounded and rounded to one of a few levels; the combination is the code. Levels (8, 5, 5, 5)
give an implicit codebook of 1,000 codes.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

MARGIN = 1e-3  # tanh never reaches the outermost levels exactly


def quantize(z: Float[Array, "*b r"], levels: Sequence[int]) -> Float[Array, "*b r"]:
    """Bounds and rounds each channel to its levels, -1 to 1, with straight-through gradients (section 3.1)."""
    level = np.asarray(levels, np.float32)
    half = (level - 1) * (1 - MARGIN) / 2
    offset = np.where(level % 2 == 0, 0.5, 0.0)  # with an even number of levels, none is at 0
    each = _along_channels(z.ndim, z.dtype)
    bounded = jnp.tanh(z + each(np.tan(offset / half))) * each(half) - each(offset)
    rounded = bounded + jax.lax.stop_gradient(jnp.round(bounded) - bounded)
    return rounded / each(level // 2)


def to_indices(codes: Float[Array, "*b r"], levels: Sequence[int]) -> Int[Array, "*b"]:
    """The codebook index of each code, from 0 to the product of the levels (exclusive)."""
    each = _along_channels(codes.ndim, np.dtype(np.float32))
    digits = jnp.round((codes.astype(jnp.float32) + 1.0) * each(np.asarray(levels) // 2)).astype(jnp.int32)
    return jnp.sum(digits * _along_channels(codes.ndim, np.dtype(np.int32))(_basis(levels)), axis=-1)


def to_codes(indices: Int[Array, "*b"], levels: Sequence[int]) -> Float[Array, "*b r"]:
    """The codes of codebook indices, float32; the inverse of to_indices."""
    each = _along_channels(indices.ndim + 1, np.dtype(np.int32))
    digits = (indices[..., None] // each(_basis(levels))) % each(np.asarray(levels))
    return digits.astype(jnp.float32) / each(np.asarray(levels) // 2).astype(jnp.float32) - 1.0


def _basis(levels: Sequence[int]) -> np.ndarray:
    return np.concatenate([[1], np.cumprod(levels[:-1])])


def _along_channels(rank: int, dtype: np.dtype) -> Callable[[np.ndarray], jax.Array]:
    """Broadcasts one value a channel along the last of `rank` axes."""
    return lambda values: jnp.asarray(values, dtype).reshape((1,) * (rank - 1) + (-1,))
