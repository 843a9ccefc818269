"""Cropping and resizing of decoded images: one way, for training, evaluation and images given by hand."""

import functools
import math
from types import ModuleType

import numpy as np
from jaxtyping import UInt8


@functools.cache
def opencv() -> ModuleType:
    """OpenCV, each call on one thread: several images are prepared at a time, and an image is too small to share."""
    import cv2

    cv2.setNumThreads(1)
    return cv2


def crop_window(height: int, width: int, resize: int, size: int, place: tuple[float, float]) -> tuple[int, int, int]:
    """The square of an image that becomes size x size when its short side becomes `resize`: first row, column, side.

    Args:
        place: of the square down and across, from 0 (first rows, first columns) to 1 (last); each of the whole numbers
            that its corner can be has an equal share of the places. 0.5 is the center.
    """
    side = max(round(size * min(height, width) / resize), 1)
    top, left = (
        max(math.ceil(where * (room + 1)) - 1, 0)
        for where, room in zip(place, (height - side, width - side), strict=True)
    )
    return top, left, side


def resized_crop(
    image: UInt8[np.ndarray, "y x 3"], resize: int, size: int, place: tuple[float, float] = (0.5, 0.5)
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Crops a window and brings it to size x size, so that the image's short side becomes `resize`; antialiased.

    The filter is close to bilinear with antialias, a triangle as wide as the scale says: whole pixels are averaged
    until less than two remain for one, then a blur of three pixels, whose variance is what the triangle has beyond
    bilinear interpolation, and that interpolation. On two cores it takes a third of the time of the triangle itself.

    Args:
        image: may be of any size.
        size: at most `resize`.
        place: as of crop_window.
    """
    cv2 = opencv()
    height, width, _ = image.shape
    top, left, side = crop_window(height, width, resize, size, place)
    window = image[top : top + side, left : left + side]
    if side >= 2 * size:
        side //= side // size
        window = cv2.resize(window, (side, side), interpolation=cv2.INTER_AREA)
    if side > size:
        # Of variance v, [v / 2, 1 - v, v / 2] as the Gaussian that is the same at -1, 0 and 1.
        variance = ((side / size) ** 2 - 1) / 6
        deviation = math.sqrt(0.5 / math.log(2 * (1 - variance) / variance))
        window = cv2.GaussianBlur(window, (3, 3), deviation, borderType=cv2.BORDER_REPLICATE)
    return cv2.resize(window, (size, size), interpolation=cv2.INTER_LINEAR)
