"""Cropping and resizing of decoded images: one way, for training, evaluation and images given by hand."""

import functools
import math
from fractions import Fraction
from types import ModuleType

import numpy as np
from jaxtyping import UInt8

Rectangle = tuple[int, int, int, int]  # of an image: first row, first column, rows, columns


@functools.cache
def opencv() -> ModuleType:
    """OpenCV, each call on one thread: several images are prepared at a time, and an image is too small to share."""
    import cv2

    cv2.setNumThreads(1)
    return cv2


def crop_window(
    height: int, width: int, shape: tuple[int, ...], zoom: Fraction, place: tuple[float, float] = (0.5, 0.5)
) -> Rectangle:
    """The part of an image that becomes `shape` when the image is scaled so that it is `zoom` times as large as that.

    Args:
        shape: rows and columns.
        zoom: of the side that limits the part: 1 takes all of that side.
        place: of the part down and across, from 0 (first rows, first columns) to 1 (last); each of the whole numbers
            that its corner can be has an equal share of the places. 0.5 is the center.
    """
    y, x = shape
    # Of whole numbers, so that no rounding on the way decides about the last one.
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
    """Crops a square and brings it to size x size, so that the image's short side becomes `resize`; antialiased.

    Args:
        image: may be of any size.
        size: at most `resize`.
        place: as of crop_window.
    """
    height, width, _ = image.shape
    window = crop_window(height, width, (size, size), Fraction(resize, size), place)
    return resize_window(image, window, (size, size))


def resize_window(
    image: UInt8[np.ndarray, "rows columns c"], window: Rectangle, shape: tuple[int, ...]
) -> UInt8[np.ndarray, "y x c"]:
    """A window of an image at `shape`, antialiased.

    The filter is close to bilinear with antialias, a triangle as wide as the scale says: whole pixels are averaged
    until less than two remain for one, then a blur of three pixels, whose variance is what the triangle has beyond
    bilinear interpolation, and that interpolation. On two cores it takes a third of the time of the triangle itself.
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
    """Of the Gaussian that is [v / 2, 1 - v, v / 2] at -1, 0 and 1, with the variance v that the scale asks for."""
    if scale <= 1:
        return 1.0  # of a kernel of one value
    variance = (scale**2 - 1) / 6
    return math.sqrt(0.5 / math.log(2 * (1 - variance) / variance))
