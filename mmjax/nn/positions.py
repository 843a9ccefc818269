"""Fixed position encodings: sinusoidal (sincos) and rotary (RoPE)."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped


def sincos_1d(length: int, width: int) -> Float[Array, "t d"]:
    """Sinusoidal encoding of the positions 0, 1, ... of a sequence; see sincos_at."""
    return sincos_at(np.arange(length), width)


def sincos_at(positions: Shaped[np.ndarray, "t"], width: int) -> Float[Array, "t d"]:
    """Sinusoidal encoding: sin and cos of t / 10000 ** (2 i / d), concatenated (Vaswani et al. 2017, section 3.5).

    Raises:
        ValueError: for an odd width.
    """
    if width % 2:
        raise ValueError(f"sincos positions need an even width, not {width}")
    frequency = 10_000.0 ** (-np.arange(0, width, 2) / width)
    angle = positions[:, None] * frequency
    return jnp.asarray(np.concatenate([np.sin(angle), np.cos(angle)], axis=-1), jnp.float32)


def sincos_2d(rows: int, columns: int, width: int) -> Float[Array, "n d"]:
    """Sinusoidal encoding of a grid in row-major order: the row in the first half of the width, then the column.

    Raises:
        ValueError: for a width that is no multiple of 4.
    """
    if width % 4:
        raise ValueError(f"sincos_2d needs a width that is a multiple of 4, not {width}")
    row = jnp.repeat(sincos_1d(rows, width // 2), columns, axis=0)
    column = jnp.tile(sincos_1d(columns, width // 2), (rows, 1))
    return jnp.concatenate([row, column], axis=-1)


def rope_angles(sides: Sequence[int], features: int) -> Float[np.ndarray, "t a"]:
    """RoPE angles of a grid's positions in row-major order, in radians.

    Axial RoPE: each axis rotates an equal share of the feature pairs, by t / 100 ** (i / n) at coordinate t (Su et al.
    2021, arXiv:2104.09864; on grids Heo et al. 2024, arXiv:2403.13298).

    Args:
        sides: of the grid, any number of axes.
        features: width of a head.
    """
    each = features // (2 * len(sides))
    frequency = 100.0 ** (-np.arange(each) / max(each, 1))
    places = np.stack(np.meshgrid(*map(np.arange, sides), indexing="ij"), axis=-1)
    return (places[..., None] * frequency).reshape(np.prod(sides), each * len(sides)).astype(np.float32)


def apply_rope(x: Float[Array, "b t h k"], angles: Float[Array | np.ndarray, "t a"]) -> Float[Array, "b t h k"]:
    """Rotates the feature pairs (i, a + i) by the RoPE angles; features beyond 2 a are unchanged."""
    pairs = angles.shape[1]
    cosine, sine = (f(angles)[None, :, None].astype(x.dtype) for f in (jnp.cos, jnp.sin))
    first, second, rest = jnp.split(x, (pairs, 2 * pairs), axis=-1)
    return jnp.concatenate([first * cosine - second * sine, first * sine + second * cosine, rest], axis=-1)
