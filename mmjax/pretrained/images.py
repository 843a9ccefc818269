"""Preprocessing of images as a folder's preprocessor_config.json, or timm's config.json, says, by Pillow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image

from mmjax.files import finite
from mmjax.pretrained.safetensors_files import CONFIG, read_json
from mmjax.terminal import printable
from mmjax.types import UserError

FILE = "preprocessor_config.json"
LARGEST = 4096  # pixels of a side
MOST_PIXELS = 1 << 26  # of a resized image
# Kernel and whether the middle is cropped, where a file does not say, by the beginning of its class.
DEFAULTS = {
    "CLIP": (3, True),
    "Bit": (3, True),
    "Siglip": (3, False),
    "ViT": (2, False),
    "ConvNext": (3, False),
    "DINOv3ViT": (2, False),
}
EXACT = ("DINOv3ViT",)  # these resize numbers from 0 to 1
WARPED = 384  # ConvNext's processor resizes to a square from this size on, and below it crops
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
        exact: resize without rounding to whole numbers.
    """

    size: tuple[int, ...]
    kernel: int
    crop: tuple[int, ...]
    scale: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    exact: bool = False

    def prepare(self, images: Sequence[UInt8[np.ndarray, "_y _x 3"]]) -> Float32[np.ndarray, "n y x 3"]:
        """Prepares images of any sizes.

        Raises:
            UserError: where they are of several sizes and not resized to one.
        """
        pixels = [self.resized(image) for image in images]
        if len({each.shape for each in pixels}) > 1:
            raise UserError(f"images: are of several sizes, and {FILE} makes them neither of one size nor crops them")
        return self.normalized(np.stack(pixels))

    def normalized(self, pixels: Shaped[np.ndarray, "n y x 3"]) -> Float32[np.ndarray, "n y x 3"]:
        """Prepares images that are resized already."""
        scaled = pixels.astype(np.float32) * np.float32(self.scale)
        channels = (np.asarray(each, np.float32)[None, None, None] for each in (self.mean, self.deviation))
        mean, deviation = channels
        return (scaled - mean) / deviation

    def resized(self, image: UInt8[np.ndarray, "y x 3"]) -> Shaped[np.ndarray, "v u 3"]:
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
            image = self._resize(image, columns, rows)
        if not self.crop:
            return image
        short_by = [max(wanted - side, 0) for wanted, side in zip(self.crop, image.shape[:2], strict=True)]
        image = np.pad(image, [*((-(-n // 2), n // 2) for n in short_by), (0, 0)])
        top, left = ((side - wanted) // 2 for side, wanted in zip(image.shape[:2], self.crop, strict=True))
        return image[top : top + self.crop[0], left : left + self.crop[1]]

    def _resize(self, image: UInt8[np.ndarray, "y x 3"], columns: int, rows: int) -> Shaped[np.ndarray, "v u 3"]:
        size, kernel = (columns, rows), KERNELS[self.kernel]
        if not self.exact:
            return np.asarray(Image.fromarray(image).resize(size, kernel))
        channels = (Image.fromarray(image[..., channel].astype(np.float32)) for channel in range(3))
        return np.stack([np.asarray(channel.resize(size, kernel)) for channel in channels], axis=-1)


def read_image_settings(folder: Path) -> ImageSettings:
    """Reads preprocessor_config.json.

    Raises:
        UserError: where it is missing, damaged, or asks for what is not supported.
    """
    path = folder / FILE
    if not path.exists() and (settings := _of_timm(folder)):
        return settings
    values = read_json(path)
    kind, default, crops = _defaults(values, path)
    size = (
        _size(values.get("size"), "size", path, shortest=crops or kind == "ConvNext")
        if _flag(values, "do_resize", path)
        else ()
    )
    crop = _size(values.get("crop_size"), "crop_size", path) if crops else ()
    if kind == "ConvNext" and size:
        size, crop = _cropped(size, values, path)
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
    return ImageSettings(size, kernel, crop, scale, mean, deviation, kind in EXACT)


def _cropped(size: tuple[int, ...], values: Mapping[str, Any], path: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The size and the crop of ConvNext's processor, whose size is that of the crop."""
    if len(size) != 1 or values.get("do_center_crop"):
        raise UserError(f"{path}: size, do_center_crop: only shortest_edge, and no crop beside that of crop_pct")
    if size[0] >= WARPED:
        return size * 2, ()
    return (_share(size[0], *_numbers(values, "crop_pct", path, 224 / 256), where=f"{path}: crop_pct"),), size * 2


def _share(side: int, *shares: float, where: str) -> int:
    """The side of an image whose share is a side."""
    if len(shares) != 1 or not 0.1 <= shares[0] <= 1:
        raise UserError(f"{where}: must be a number from 0.1 to 1")
    return int(side / shares[0])


def _of_timm(folder: Path) -> ImageSettings | None:
    """The settings of timm's config.json; None for another one."""
    path = folder / CONFIG
    values = read_json(path).get("pretrained_cfg") if path.exists() else None
    if not isinstance(values, dict):
        return None
    where = f"{path}: pretrained_cfg"
    side = values.get("input_size")
    if not isinstance(side, list) or len(side) != 3 or side[0] != 3 or side[1] != side[2]:
        raise UserError(f"{where}.input_size: must be [3, n, n], not {printable(repr(side))[:60]}")
    (side, _) = _size(side[1], "pretrained_cfg.input_size", path)
    kernels = {kernel.name.lower(): number for number, kernel in KERNELS.items()}
    kernel, mode = values.get("interpolation", "bicubic"), values.get("crop_mode", "center")
    if kernel not in kernels or mode != "center":
        raise UserError(f"{where}: interpolation {printable(repr(kernel))}, crop_mode {printable(repr(mode))}: no such")
    resized = _share(side, *_numbers(values, "crop_pct", path, 0.875), where=f"{where}.crop_pct")
    mean, deviation = (_numbers(values, name, path) for name in ("mean", "std"))
    if len(mean) != 3 or len(deviation) != 3 or min(deviation) <= 0:
        raise UserError(f"{where}: mean, std: must be three numbers each, the latter above 0")
    return ImageSettings((resized,), kernels[kernel], (side, side), 1 / 255, mean, deviation)


def _defaults(values: Mapping[str, Any], path: Path) -> tuple[str, int, bool]:
    """The kind of processor, its kernel where none is given, and whether the middle is cropped."""
    for name in UNSUPPORTED:
        if values.get(name):
            raise UserError(f"{path}: {name}: {printable(repr(values[name]))[:60]} is not supported")
    kind = values.get("image_processor_type", values.get("feature_extractor_type"))
    if kind is None:
        crops = _flag(values, "do_center_crop", path, False)
        return "", (3 if crops else 2), crops
    for name, (kernel, crops) in DEFAULTS.items():
        if isinstance(kind, str) and kind.startswith(name):
            return name, kernel, _flag(values, "do_center_crop", path, crops)
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
