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
        scaled = np.stack(pixels).astype(np.float32) * np.float32(self.scale)
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
    crops = bool(values.get("do_center_crop", False))
    size = _size(values.get("size"), "size", path, shortest=crops) if values.get("do_resize", True) else ()
    crop = _size(values.get("crop_size"), "crop_size", path) if crops else ()
    # Not written in old files: the default of the class, bicubic for CLIP and those after it, bilinear for ViT.
    kernel = values.get("resample", 3 if crops else 2)
    if kernel not in KERNELS:
        raise UserError(
            f"{path}: resample: must be one of {', '.join(map(str, KERNELS))}, not {printable(repr(kernel))}"
        )
    scale = _numbers(values, "rescale_factor", path, 1 / 255)[0] if values.get("do_rescale", True) else 1.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    deviation: tuple[float, ...] = (1.0, 1.0, 1.0)
    if values.get("do_normalize", True):
        mean, deviation = (_numbers(values, name, path) for name in ("image_mean", "image_std"))
        if len(mean) != 3 or len(deviation) != 3 or min(deviation) <= 0:
            raise UserError(f"{path}: image_mean, image_std: must be three numbers each, the latter above 0")
    return ImageSettings(size, kernel, crop, scale, mean, deviation)


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
    if not all(finite(number) for number in numbers):
        raise UserError(f"{path}: {name}: must be numbers, not {printable(repr(value))[:60]}")
    return tuple(map(float, numbers))
