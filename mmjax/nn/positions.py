"""Fixed position encodings: sinusoidal (sincos) and rotary (RoPE)."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from mmjax.types import UserError

MAX_TABLE = 2**25  # numbers; larger ones take seconds and gigabytes before a model is built


def sincos_1d(positions: int | Shaped[np.ndarray, "t"], width: int) -> Float[Array, "t d"]:
    """Sinusoidal encoding of positions, or of the first ones of a sequence: 0, 1, ..., for an even width.

    sin and cos of t / 10000 ** (2 i / d), concatenated (Vaswani et al. 2017, section 3.5).
    """
    frequency = 10_000.0 ** (-np.arange(0, width, 2) / width)
    places = np.arange(positions) if isinstance(positions, int) else positions
    _check_table(len(places), width)
    angle = places[:, None] * frequency
    return jnp.asarray(np.concatenate([np.sin(angle), np.cos(angle)], axis=-1), jnp.float32)


def sincos_grid(sides: Sequence[int], width: int) -> Float[Array, "n d"]:
    """Sinusoidal encoding of a grid in row-major order: the row in the first half of the width, then the column.

    With three sides, (frames, rows, columns), that of the frame is added. The width must be a multiple of 4.
    """
    *frames, rows, columns = sides
    row = jnp.repeat(sincos_1d(rows, width // 2)[:, None], columns, axis=1)
    column = jnp.tile(sincos_1d(columns, width // 2)[None], (rows, 1, 1))
    places = jnp.concatenate([row, column], axis=-1)
    if frames:
        places = places[None] + sincos_1d(frames[0], width)[:, None, None]
    return places.reshape(-1, width)


def rope_angles(sides: Sequence[int], features: int) -> Float[np.ndarray, "t a"]:
    """RoPE angles of a grid's positions in row-major order, in radians.

    Axial RoPE: each axis rotates an equal share of the feature pairs, by t / 100 ** (i / n) at coordinate t (Su et al.
    2021, arXiv:2104.09864; on grids Heo et al. 2024, arXiv:2403.13298).

    Args:
        sides: of the grid, any number of axes.
        features: width of a head.
    """
    each = features // (2 * len(sides))
    _check_table(math.prod(sides), each * len(sides))
    frequency = 100.0 ** (-np.arange(each) / max(each, 1))
    places = np.stack(np.meshgrid(*map(np.arange, sides), indexing="ij"), axis=-1)
    return (places[..., None] * frequency).reshape(np.prod(sides), each * len(sides)).astype(np.float32)


def _check_table(tokens: int, width: int) -> None:
    if tokens * width > MAX_TABLE:
        raise UserError(
            f"model.width: the positions of {tokens:,} tokens take {tokens * width:,} numbers, and may take "
            f"{MAX_TABLE:,}; take a smaller width, text.length or data.size, or larger patches"
        )


def apply_rope(x: Float[Array, "b t h k"], angles: Float[Array | np.ndarray, "t a"]) -> Float[Array, "b t h k"]:
    """Rotates the feature pairs (i, a + i) by the RoPE angles; features beyond 2 a are unchanged."""
    pairs = angles.shape[1]
    cosine, sine = (f(angles)[None, :, None].astype(x.dtype) for f in (jnp.cos, jnp.sin))
    first, second, rest = jnp.split(x, (pairs, 2 * pairs), axis=-1)
    return jnp.concatenate([first * cosine - second * sine, first * sine + second * cosine, rest], axis=-1)
