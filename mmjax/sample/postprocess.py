"""From a model's floats to pictures and back, and several pictures in one."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, UInt8


def to_uint8(image: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Pictures of any shape from -1 (black) to 1 (white) as 0 to 255, rounded and clipped; not-a-number is black."""
    scaled = (np.asarray(image, np.float32) + 1) * 127.5
    return np.rint(np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255)).astype(np.uint8)


def from_uint8(image: UInt8[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Pictures of any shape from 0 to 255 as -1 (black) to 1 (white)."""
    return image.astype(np.float32) / np.float32(127.5) - np.float32(1)


def grid(rows: Sequence[UInt8[np.ndarray, "n *f y x 3"]]) -> UInt8[np.ndarray, "*f height width 3"]:
    """One picture of all, or one clip of all clips: rows below each other, those of a row side by side, no gaps."""
    return np.concatenate([np.concatenate(list(row), axis=-2) for row in rows], axis=-3)


def sheet(pictures: UInt8[np.ndarray, "n *f y x 3"], columns: int) -> UInt8[np.ndarray, "*f height width 3"]:
    """One picture (or clip) of all, row by row, at most so many in a row, no gaps; what the last row lacks is black."""
    columns = min(columns, len(pictures))
    missing = -len(pictures) % columns
    filled = np.concatenate([pictures, np.zeros((missing, *pictures.shape[1:]), np.uint8)])
    return grid(list(filled.reshape(-1, columns, *pictures.shape[1:])))
