"""Transforms of an example: crops and flips of images with their masks and boxes.

A transform is a function of (example, key). An example is a dict by feature: images uint8 [y, x, c], masks uint8
[y, x], boxes float [n, 4]. The key determines all randomness. Transforms add their parameters: `windows`, the crop
of each image, and `flip`.
"""

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from mmjax.data.image import crop_window, opencv, resize_window
from mmjax.data.source import Features, ReadSpec
from mmjax.types import Feature

Example = dict[str, Any]
Key = tuple[int, int, int]  # seed, epoch, key of the example
Transform = Callable[[Example, Key], Example]


@dataclass(frozen=True)
class Window:
    """A crop of an image, as fractions of its height and width."""

    y_min: float
    x_min: float
    y_max: float
    x_max: float


def crop_and_flip(spec: ReadSpec, features: Features) -> tuple[Transform, ...]:
    """The transforms of images: random crops and flips for training, else center crops."""
    cropped = functools.partial(crop, features=features, zoom=Fraction(spec.resize, spec.size), random=spec.training)
    mirrored = functools.partial(flip, features=features)
    return (cropped, mirrored) if spec.training and spec.flip else (cropped,)


def crop(example: Example, key: Key, *, features: Features, zoom: Fraction, random: bool) -> Example:
    """Crops each image and resizes it to its feature's shape.

    Images without `of` are cropped independently. Features `of` an image share its window: images of any resolution,
    masks by nearest neighbor, boxes clipped.

    Args:
        zoom: ratio of image and crop along the limiting side.
        random: random window; otherwise the center.
    """
    result, windows = dict(example), dict[str, Window]()
    for name, feature in features.items():
        if feature.kind == "image" and not feature.of:
            height, width, _ = example[name].shape
            place = draws(key, name)[:2] if random else (0.5, 0.5)
            window = crop_window(height, width, feature.shape[:2], zoom, place)
            result[name] = resize_window(example[name], window, feature.shape[:2])
            top, left, rows, columns = window
            windows[name] = Window(top / height, left / width, (top + rows) / height, (left + columns) / width)
    for name, feature in features.items():
        if feature.of and example.get(name) is not None:
            result[name] = _follow(example[name], feature, windows[feature.of])
    return result | {"windows": windows}


def flip(example: Example, key: Key, *, features: Features) -> Example:
    """Flips half of the examples horizontally, with their masks and boxes."""
    if draws(key, "image")[2] >= 0.5:
        return example | {"flip": False}
    flips = {"image": lambda image: opencv().flip(image, 1), "mask": lambda mask: mask[:, ::-1], "boxes": flip_boxes}
    flipped = {
        name: flips[feature.kind](example[name])
        for name, feature in features.items()
        if feature.kind in flips and example.get(name) is not None
    }
    return example | flipped | {"flip": True}


@functools.lru_cache(maxsize=64)  # shared by the transforms of an example
def draws(key: Key, image: str) -> tuple[float, float, float]:
    """Uniform numbers from 0 to 1, independent for each image: the place of its crop down and across, and the flip."""
    seed, epoch, example = key
    extra = () if image == "image" else (zlib.crc32(image.encode()),)
    # 1: a random stream independent of the choice of the caption.
    down, across, mirrored = np.random.default_rng((seed, epoch, example % 2**63, 1, *extra)).random(3).tolist()
    return down, across, mirrored


def _follow(value: Any, feature: Feature, window: Window) -> Any:
    """Crops an image, mask or boxes to the window of the image that they are of."""
    if feature.kind == "image":
        height, width, _ = value.shape
        top, left = round(window.y_min * height), round(window.x_min * width)
        rows = max(round(window.y_max * height) - top, 1)
        columns = max(round(window.x_max * width) - left, 1)
        return resize_window(value, (min(top, height - 1), min(left, width - 1), rows, columns), feature.shape[:2])
    if feature.kind == "mask":
        return crop_mask(value, window, feature.shape)
    return crop_boxes(value, window) if feature.kind == "boxes" else value


def crop_mask(
    mask: UInt8[np.ndarray, "rows columns"], window: Window, shape: tuple[int, ...]
) -> UInt8[np.ndarray, "y x"]:
    """Crops and resizes a mask by nearest neighbor."""
    places = []
    for length, size, low, high in zip(
        mask.shape, shape, (window.y_min, window.x_min), (window.y_max, window.x_max), strict=True
    ):
        centers = low + (np.arange(size) + 0.5) / size * (high - low)
        places.append(np.minimum((centers * length).astype(np.int64), length - 1))
    return mask[np.ix_(*places)]


def crop_boxes(boxes: Float[np.ndarray, "n 4"], window: Window) -> Float[np.ndarray, "n 4"]:
    """Boxes as fractions of a window, clipped; those outside become empty."""
    low = np.array([window.y_min, window.x_min] * 2)
    size = np.array([window.y_max - window.y_min, window.x_max - window.x_min] * 2)
    return np.clip((boxes - low) / size, 0.0, 1.0)


def flip_boxes(boxes: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, "n 4"]:
    """Boxes of the horizontally flipped image."""
    y_min, x_min, y_max, x_max = np.moveaxis(boxes, -1, 0)
    return np.stack([y_min, 1 - x_max, y_max, 1 - x_min], axis=-1)


def pad_boxes(
    boxes: Float[np.ndarray, "k 4"] | None, count: int
) -> tuple[Float32[np.ndarray, "n 4"], Bool[np.ndarray, " n"]]:
    """The first `count` boxes, padded with 0, and which are valid; empty boxes are not."""
    padded, valid = np.zeros((count, 4), np.float32), np.zeros(count, np.bool_)
    if boxes is not None and len(boxes):
        kept = np.asarray(boxes)[:count]
        nonempty = (kept[:, 0] < kept[:, 2]) & (kept[:, 1] < kept[:, 3])
        padded[: len(kept)][nonempty], valid[: len(kept)] = kept[nonempty], nonempty
    return padded, valid
