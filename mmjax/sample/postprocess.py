"""Conversion between model outputs and uint8 images, and image grids."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, UInt8


def to_uint8(image: Float[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Converts images of any shape from -1 (black) to 1 (white) to 0 to 255, rounded and clipped; NaN is black."""
    scaled = (np.asarray(image, np.float32) + 1) * 127.5
    return np.rint(np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255)).astype(np.uint8)


def from_uint8(image: UInt8[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Converts images of any shape from 0 to 255 to -1 (black) to 1 (white)."""
    return image.astype(np.float32) / np.float32(127.5) - np.float32(1)


def grid(rows: Sequence[UInt8[np.ndarray, "n *f y x 3"]]) -> UInt8[np.ndarray, "*f height width 3"]:
    """One image (or clip) of all, from rows of images without gaps."""
    return np.concatenate([np.concatenate(list(row), axis=-2) for row in rows], axis=-3)


def sheet(images: UInt8[np.ndarray, "n *f y x 3"], columns: int) -> UInt8[np.ndarray, "*f height width 3"]:
    """One image (or clip) of all in row-major order, at most `columns` in a row, without gaps; the rest is black."""
    columns = min(columns, len(images))
    missing = -len(images) % columns
    filled = np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.uint8)])
    return grid(list(filled.reshape(-1, columns, *images.shape[1:])))
