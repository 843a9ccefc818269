"""Preprocessing of images as a folder's preprocessor_config.json says, by Pillow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from mmjax.files import finite
from mmjax.pretrained.safetensors_files import read_json
from mmjax.terminal import printable
from mmjax.types import UserError

FILE = "preprocessor_config.json"
LARGEST = 4096  # pixels of a side
MOST_PIXELS = 1 << 26  # of a resized image
# Kernel and whether the middle is cropped, where a file does not say, by the beginning of its class.
DEFAULTS = {"CLIP": (3, True), "Bit": (3, True), "Siglip": (3, False), "ViT": (2, False)}
UNSUPPORTED = ("do_pad", "do_flip_channel_order", "offset")
# By `resample`, Pillow's numbers.
KERNELS = {
    0: Image.Resampling.NEAREST,
    1: Image.Resampling.LANCZOS,
    2: Image.Resampling.BILINEAR,
    3: Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class ImageSettings:
    """How images are prepared.

    Attributes:
        size: of the resized image, rows and columns; (n,) for a shorter side of n pixels; (): not resized.
        kernel: of Pillow's resize, a key of KERNELS.
        crop: rows and columns of the middle that is kept; (): everything.
        scale: factor of the pixels, 0 to 255.
        mean, deviation: of each channel, that are then subtracted and divided by.
    """

    size: tuple[int, ...]
    kernel: int
    crop: tuple[int, ...]
    scale: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    def prepare(self, images: Sequence[UInt8[np.ndarray, "_y _x 3"]]) -> Float32[np.ndarray, "n y x 3"]:
        """Prepares images of any sizes.

        Raises:
            UserError: where they are of several sizes and not resized to one.
        """
        pixels = [self.resized(image) for image in images]
        if len({each.shape for each in pixels}) > 1:
            raise UserError(f"images: are of several sizes, and {FILE} makes them neither of one size nor crops them")
        return self.normalized(np.stack(pixels))

    def normalized(self, pixels: UInt8[np.ndarray, "n y x 3"]) -> Float32[np.ndarray, "n y x 3"]:
        """Prepares images that are resized already."""
        scaled = pixels.astype(np.float32) * np.float32(self.scale)
        channels = (np.asarray(each, np.float32)[None, None, None] for each in (self.mean, self.deviation))
        mean, deviation = channels
        return (scaled - mean) / deviation

    def resized(self, image: UInt8[np.ndarray, "y x 3"]) -> UInt8[np.ndarray, "v u 3"]:
        """The image resized and cropped; where it is smaller than the crop, black is added around it."""
        rows, columns = image.shape[:2]
        if self.size:
            if len(self.size) == 1:  # as torchvision does: the longer side is rounded down
                short, long = sorted((rows, columns))
                sides = (self.size[0], int(self.size[0] * long / short))
                rows, columns = sides if rows <= columns else sides[::-1]
            else:
                rows, columns = self.size
            if rows * columns > MOST_PIXELS:
                y, x = image.shape[:2]
                raise UserError(f"images: {y:,} x {x:,} pixels are too narrow: resized they are {rows:,} x {columns:,}")
            image = np.asarray(Image.fromarray(image).resize((columns, rows), KERNELS[self.kernel]))
        if not self.crop:
            return image
        short_by = [max(wanted - side, 0) for wanted, side in zip(self.crop, image.shape[:2], strict=True)]
        image = np.pad(image, [*((-(-n // 2), n // 2) for n in short_by), (0, 0)])
        top, left = ((side - wanted) // 2 for side, wanted in zip(image.shape[:2], self.crop, strict=True))
        return image[top : top + self.crop[0], left : left + self.crop[1]]


def read_image_settings(folder: Path) -> ImageSettings:
    """Reads preprocessor_config.json.

    Raises:
        UserError: where it is missing, damaged, or asks for what is not supported.
    """
    path = folder / FILE
    values = read_json(path)
    default, crops = _defaults(values, path)
    size = _size(values.get("size"), "size", path, shortest=crops) if _flag(values, "do_resize", path) else ()
    crop = _size(values.get("crop_size"), "crop_size", path) if crops else ()
    if len(crop) == 1:
        raise UserError(f"{path}: crop_size: must be height and width")
    kernel = values.get("resample", default)
    if type(kernel) is not int or kernel not in KERNELS:
        raise UserError(
            f"{path}: resample: must be one of {', '.join(map(str, KERNELS))}, not {printable(repr(kernel))}"
        )
    scale = 1.0
    if _flag(values, "do_rescale", path):
        (scale, *more) = _numbers(values, "rescale_factor", path, 1 / 255)
        if more:
            raise UserError(f"{path}: rescale_factor: must be one number")
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    deviation: tuple[float, ...] = (1.0, 1.0, 1.0)
    if _flag(values, "do_normalize", path):
        mean, deviation = (_numbers(values, name, path) for name in ("image_mean", "image_std"))
        if len(mean) != 3 or len(deviation) != 3 or min(deviation) <= 0:
            raise UserError(f"{path}: image_mean, image_std: must be three numbers each, the latter above 0")
    return ImageSettings(size, kernel, crop, scale, mean, deviation)


def _defaults(values: Mapping[str, Any], path: Path) -> tuple[int, bool]:
    """The kernel where none is given, and whether the middle is cropped."""
    for name in UNSUPPORTED:
        if values.get(name):
            raise UserError(f"{path}: {name}: {printable(repr(values[name]))[:60]} is not supported")
    kind = values.get("image_processor_type", values.get("feature_extractor_type"))
    if kind is None:
        crops = _flag(values, "do_center_crop", path, False)
        return (3 if crops else 2), crops
    for name, (kernel, crops) in DEFAULTS.items():
        if isinstance(kind, str) and kind.startswith(name):
            return kernel, _flag(values, "do_center_crop", path, crops)
    known = ", ".join(DEFAULTS)
    raise UserError(f"{path}: image_processor_type: {printable(repr(kind))[:60]} is not supported, only {known}")


def _flag(values: Mapping[str, Any], name: str, path: Path, default: bool = True) -> bool:
    value = values.get(name)
    if value is not None and not isinstance(value, bool):
        raise UserError(f"{path}: {name}: must be true or false, not {printable(repr(value))[:60]}")
    return default if value is None else value


def _size(value: Any, name: str, path: Path, shortest: bool = False) -> tuple[int, ...]:
    if isinstance(value, dict) and value.keys() in ({"height", "width"}, {"shortest_edge"}):
        sides = tuple(value[key] for key in ("shortest_edge", "height", "width") if key in value)
    else:  # in old files a number
        sides = (value,) if shortest else (value, value)
    if not all(type(side) is int and 1 <= side <= LARGEST for side in sides):
        raise UserError(
            f"{path}: {name}: must be height and width or shortest_edge, of at most {LARGEST} pixels, not "
            f"{printable(repr(value))}"
        )
    return sides


def _numbers(values: Mapping[str, Any], name: str, path: Path, default: float | None = None) -> tuple[float, ...]:
    value = values.get(name, default)
    numbers = value if isinstance(value, list) else [value]
    if not numbers or not all(finite(number) and abs(number) < 1e6 for number in numbers):
        raise UserError(f"{path}: {name}: must be numbers, not {printable(repr(value))[:60]}")
    return tuple(map(float, numbers))
