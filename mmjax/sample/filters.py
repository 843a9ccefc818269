"""What may be done to drawn images afterwards: sharpening and denoising. Both are off unless asked for."""

import importlib.util
import math

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from mmjax.types import UserError

MAX_SHARPENING = 5.0
MAX_RADIUS = 100.0  # pixels
MAX_NOISE = 100.0  # of 255
PATCH, DISTANCE = 5, 6  # pixels: sides of the patches that are compared, and how far away they are looked for


def sharpen(
    images: UInt8[np.ndarray, "n *f y x 3"], amount: float, radius: float = 2.0
) -> UInt8[np.ndarray, "n *f y x 3"]:
    """Unsharp masking: adds `amount` times the difference of each image to its blurred self; by Pillow.

    Args:
        images: images or clips.
        amount: from 0, which changes nothing, to 5.
        radius: of the Gaussian blur, its deviation in pixels, above 0.

    Raises:
        UserError: for an amount or radius out of range.
    """
    _check("sharpen: amount", amount, MAX_SHARPENING)
    _check("sharpen: radius", radius, MAX_RADIUS)
    if radius == 0:
        raise UserError("sharpen: radius must be above 0 pixels")
    if amount == 0:
        return images
    mask = ImageFilter.UnsharpMask(radius, round(100 * amount), 0)
    frames = images.reshape(-1, *images.shape[-3:])
    return _like(images, [np.asarray(Image.fromarray(frame).filter(mask)) for frame in frames])


def denoise(images: UInt8[np.ndarray, "n *f y x 3"], strength: float) -> UInt8[np.ndarray, "n *f y x 3"]:
    """Non-local means (Buades, Coll and Morel 2005): means of places whose neighborhoods look alike; by scikit-image.

    Args:
        images: images or clips, of which each frame is denoised by itself.
        strength: standard deviation of the noise to take away, from 0, which changes nothing, to 100 (of 255).

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
    frames = images.reshape(-1, *images.shape[-3:]).astype(np.float32) / 255
    # 0.8: h a little below the deviation, as scikit-image advises where it is told the deviation.
    clean = [
        denoise_nl_means(frame, PATCH, DISTANCE, 0.8 * deviation, sigma=deviation, channel_axis=-1) for frame in frames
    ]
    return _like(images, [np.rint(255 * np.clip(frame, 0, 1)).astype(np.uint8) for frame in clean])


def _like(images: UInt8[np.ndarray, "n *f y x 3"], frames: list[np.ndarray]) -> UInt8[np.ndarray, "n *f y x 3"]:
    return np.stack(frames).reshape(images.shape) if frames else images


def _check(name: str, value: float, most: float) -> None:
    if not (math.isfinite(value) and 0 <= value <= most):
        raise UserError(f"{name} must be from 0 to {most:g}, not {value:g}")
