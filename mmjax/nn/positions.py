"""Positions as sines and cosines: no parameters, any length, any grid."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped


def sine_positions(length: int, width: int) -> Float[Array, "t d"]:
    """The positions 0, 1, 2 ... of a sequence; see sines_at."""
    return sines_at(np.arange(length), width)


def sines_at(positions: Shaped[np.ndarray, "t"], width: int) -> Float[Array, "t d"]:
    """Vaswani et al. 2017, section 3.5: sin and cos of t / 10000 ** (2 i / d), halves side by side.

    Raises:
        ValueError: for an odd width.
    """
    if width % 2:
        raise ValueError(f"sine positions need an even width, not {width}")
    frequency = 10_000.0 ** (-np.arange(0, width, 2) / width)
    angle = positions[:, None] * frequency
    return jnp.asarray(np.concatenate([np.sin(angle), np.cos(angle)], axis=-1), jnp.float32)


def grid_positions(rows: int, columns: int, width: int) -> Float[Array, "n d"]:
    """The positions of a grid read row by row: half of the width tells the row, half the column.

    Raises:
        ValueError: for a width that is no multiple of 4.
    """
    if width % 4:
        raise ValueError(f"grid positions need a width that is a multiple of 4, not {width}")
    row = jnp.repeat(sine_positions(rows, width // 2), columns, axis=0)
    column = jnp.tile(sine_positions(columns, width // 2), (rows, 1))
    return jnp.concatenate([row, column], axis=-1)
