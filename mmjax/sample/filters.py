"""Optional post-processing of generated images: sharpening and denoising."""

import importlib.util
import math
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from mmjax.types import UserError

MAX_SHARPENING = 5.0
RADIUS = 2.0  # pixels
MAX_NOISE = 100.0  # of 255
PATCH, DISTANCE = 5, 6  # pixels: side of the patches compared, and search distance


def sharpen(images: UInt8[np.ndarray, "n *f y x 3"], amount: float) -> UInt8[np.ndarray, "n *f y x 3"]:
    """Unsharp masking: adds `amount` times the difference of each image to its blurred version; by Pillow.

    Args:
        images: images or clips.
        amount: from 0, which changes nothing, to 5.

    Raises:
        UserError: for an amount out of range.
    """
    _check("sharpen: amount", amount, MAX_SHARPENING)
    if amount == 0:
        return images
    mask = ImageFilter.UnsharpMask(RADIUS, round(100 * amount), 0)
    return _each(images, lambda frame: np.asarray(Image.fromarray(frame).filter(mask)))


def denoise(images: UInt8[np.ndarray, "n *f y x 3"], strength: float) -> UInt8[np.ndarray, "n *f y x 3"]:
    """Non-local means (Buades, Coll and Morel 2005) of each image or frame; by scikit-image.

    Args:
        images: images or clips.
        strength: standard deviation of the noise to remove, from 0, which changes nothing, to 100 (of 255).

    Raises:
        UserError: for a strength out of range, or where scikit-image is missing.
    """
    _check("denoise: strength", strength, MAX_NOISE)
    if strength == 0:
        return images
    if importlib.util.find_spec("skimage") is None:
        raise UserError("denoise: scikit-image is not installed; run pip install '.[denoise]'")
    from skimage.restoration import denoise_nl_means

    deviation = strength / 255

    def clean(frame: np.ndarray) -> np.ndarray:
        scaled = frame.astype(np.float32) / 255
        # h is a little below sigma, as scikit-image recommends with a given sigma.
        found = denoise_nl_means(scaled, PATCH, DISTANCE, 0.8 * deviation, sigma=deviation, channel_axis=-1)
        return np.rint(255 * np.clip(found, 0, 1)).astype(np.uint8)

    return _each(images, clean)


def _each(
    images: UInt8[np.ndarray, "n *f y x 3"], change: Callable[[np.ndarray], np.ndarray]
) -> UInt8[np.ndarray, "n *f y x 3"]:
    frames = [change(frame) for frame in images.reshape(-1, *images.shape[-3:])]
    return np.stack(frames).reshape(images.shape) if frames else images


def _check(name: str, value: float, maximum: float) -> None:
    if not (math.isfinite(value) and 0 <= value <= maximum):
        raise UserError(f"{name} must be from 0 to {maximum:g}, not {value:g}")
