"""Cropping and resizing of images."""

import functools
import math
from fractions import Fraction
from types import ModuleType

import numpy as np
from jaxtyping import UInt8

Rectangle = tuple[int, int, int, int]  # first row, first column, rows, columns


@functools.cache
def opencv() -> ModuleType:
    """Imports OpenCV with one thread per call; images are prepared concurrently."""
    import cv2

    cv2.setNumThreads(1)
    return cv2


def crop_window(
    height: int, width: int, shape: tuple[int, ...], zoom: Fraction, place: tuple[float, float] = (0.5, 0.5)
) -> Rectangle:
    """The crop of an image with the aspect ratio of `shape`, 1 / `zoom` of the limiting side.

    Args:
        shape: rows and columns.
        zoom: ratio of image and crop along the limiting side.
        place: of the crop down and across, from 0 (first rows, columns) to 1 (last), 0.5: the center; uniform places
            give uniform offsets.
    """
    y, x = shape
    # Integers, so that floating-point rounding cannot change the result.
    limit = min(height * x, width * y) * zoom.denominator
    rows, columns = (max(round(limit / (side * zoom.numerator)), 1) for side in (x, y))
    top, left = (
        max(math.ceil(where * (room + 1)) - 1, 0)
        for where, room in zip(place, (height - rows, width - columns), strict=True)
    )
    return top, left, rows, columns


def resized_crop(
    image: UInt8[np.ndarray, "y x 3"], resize: int, size: int, place: tuple[float, float] = (0.5, 0.5)
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Resizes the short side of an image to `resize` and crops size x size, antialiased.

    Args:
        size: at most `resize`.
        place: as of crop_window.
    """
    height, width, _ = image.shape
    window = crop_window(height, width, (size, size), Fraction(resize, size), place)
    return resize_window(image, window, (size, size))


def resize_window(
    image: UInt8[np.ndarray, "rows columns c"], window: Rectangle, shape: tuple[int, ...]
) -> UInt8[np.ndarray, "y x c"]:
    """Resizes a window of an image to `shape`, antialiased.

    Approximates an antialiased triangle filter in a third of its time: averages whole pixels down to a scale below 2,
    blurs with three taps of the variance that the triangle exceeds bilinear interpolation by, and interpolates.
    """
    cv2 = opencv()
    top, left, rows, columns = window
    y, x = shape
    part = image[top : top + rows, left : left + columns]
    whole = max(rows // y, 1), max(columns // x, 1)
    if max(whole) > 1:
        rows, columns = rows // whole[0], columns // whole[1]
        part = cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA)
    if rows > y or columns > x:
        kernel = 3 if columns > x else 1, 3 if rows > y else 1
        deviations = _deviation(columns / x), _deviation(rows / y)
        part = cv2.GaussianBlur(part, kernel, deviations[0], None, deviations[1], cv2.BORDER_REPLICATE)
    return cv2.resize(part, (x, y), interpolation=cv2.INTER_LINEAR)


def _deviation(scale: float) -> float:
    """Standard deviation of the Gaussian [v / 2, 1 - v, v / 2] at -1, 0 and 1 with the variance v for a scale."""
    if scale <= 1:
        return 1.0  # for a kernel of size 1
    variance = (scale**2 - 1) / 6
    return math.sqrt(0.5 / math.log(2 * (1 - variance) / variance))
