"""Inpainting, variation and continuation with a masked generator: which tokens are sampled, and what is kept."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from mmjax.sample.postprocess import from_uint8, to_uint8
from mmjax.types import UserError


@dataclass(frozen=True)
class Start:
    """The initial state of sampling.

    Attributes:
        masked: the visual tokens to sample.
        image: images or whole clips whose other tokens are kept, -1 to 1; None if all are sampled.
        resampled: the pixels that are not kept.
    """

    masked: Bool[np.ndarray, "n *grid"]
    image: Float32[np.ndarray, "n *pixels 3"] | None = None
    resampled: Bool[np.ndarray, "n *pixels"] | None = None


def start(
    grid: Sequence[int],
    size: int,
    frames: int,
    seeds: Int[np.ndarray, "n"],
    image: Any = None,
    mask: Any = None,
    variation: float | None = None,
) -> Start:
    """Checks the arguments, and says which visual tokens are sampled.

    Args:
        grid: shape of an example's tokens, (rows, columns) or (frames, rows, columns).
        size, frames: of the model's images or clips.
        seeds: of the positions that are varied.
        image, mask, variation: see ImageGenerator.generate.

    Raises:
        UserError: for a wrong shape, type or range, or a mask without an image.
    """
    if frames == 1 and len(grid) == 3:  # an image, of a tokenizer of clips
        begin = start(grid[1:], size, frames, seeds, image, mask, variation)
        return replace(begin, masked=begin.masked[:, None])
    count = len(seeds)
    if image is None:
        for name, value in (("mask", mask), ("variation", variation)):
            if value is not None:
                raise UserError(f"{name}: needs an image")
        return Start(np.ones((count, *grid), np.bool_))
    images = images_of("image", image)
    clip = len(grid) == 3
    given = images.shape[1] if clip and images.ndim == 5 else 1
    wanted = (count, *((given,) if clip else ()), size, size, 3)
    if images.shape != wanted:
        most = f"; a clip has at most {frames} frames" if clip else ""
        raise UserError(f"image: must be {list(wanted)}, not {list(images.shape)}{most}")
    if given > frames:
        raise UserError(f"image: has {given} frames, and the model's clips have {frames}; give fewer")
    if mask is None and variation is None and not (clip and given < frames):
        raise UserError("image: needs a mask or a variation, which say what to resample")
    resampled = np.zeros(wanted[:-1], np.bool_) if mask is None else _mask(mask, wanted[:-1])
    if clip:  # missing frames are filled with the last one
        missing = ((0, 0), (0, frames - given), (0, 0), (0, 0))
        images = np.pad(images, (*missing, (0, 0)), "edge")
        resampled = np.pad(resampled, missing, constant_values=True)
    masked = _tokens(resampled, grid)
    if variation is not None:
        varied = _varied(grid, seeds, variation)
        masked |= varied
        resampled |= _pixels(varied, resampled.shape)
    return Start(masked, images, resampled)


def keep(drawn: UInt8[np.ndarray, "n *pixels 3"], begin: Start) -> UInt8[np.ndarray, "n *pixels 3"]:
    """The sampled images, with the kept pixels of the original."""
    if begin.image is None or begin.resampled is None:
        return drawn
    return np.where(begin.resampled[..., None], drawn, to_uint8(begin.image))


def images_of(name: str, values: Any, shape: tuple[int, ...] | None = None) -> Float32[np.ndarray, "n *pixels 3"]:
    """Images as models take them: float32, -1 to 1.

    Raises:
        UserError: for a type other than float32 from -1 to 1 or uint8, or another shape.
    """
    try:
        images = np.asarray(values)
    except ValueError as error:
        raise UserError(f"{name}: must be one array, not images of different shapes") from error
    if (shape and images.shape != shape) or images.dtype not in (np.float32, np.uint8):
        wanted = f" {list(shape)}" if shape else ""
        raise UserError(f"{name}: must be float32 or uint8{wanted}, not {images.dtype} {list(images.shape)}")
    if images.dtype == np.uint8:
        return from_uint8(images)
    if not np.all(np.abs(images) <= 1):
        raise UserError(f"{name}: values must be from -1 (black) to 1 (white); or give a uint8 image")
    return images


def _mask(mask: Any, shape: tuple[int, ...]) -> Bool[np.ndarray, "n *pixels"]:
    values = np.asarray(mask)
    if values.shape != shape or values.dtype not in (np.bool_, np.uint8):
        raise UserError(f"mask: must be bool or uint8 {list(shape)}, not {values.dtype} {list(values.shape)}")
    if values.dtype == np.uint8:
        others = values[(values != 0) & (values != 255)]
        if others.size:
            raise UserError(
                f"mask: must hold only 0 (keep) and 255 (resample), but {others.size:,} of {values.size:,} "
                f"pixels are grey, such as {others[0]}"
            )
    return values.astype(np.bool_)


def _varied(grid: Sequence[int], seeds: Int[np.ndarray, "n"], fraction: float) -> Bool[np.ndarray, "n *grid"]:
    if not 0 < fraction <= 1:
        raise UserError(f"variation: must be above 0 and at most 1, not {fraction}")
    count = math.prod(grid)
    places = [np.random.default_rng(int(seed)).permutation(count) for seed in seeds]
    return (np.stack(places) < max(round(fraction * count), 1)).reshape(len(seeds), *grid)


def _tokens(resampled: Bool[np.ndarray, "n *pixels"], grid: Sequence[int]) -> Bool[np.ndarray, "n *grid"]:
    """The tokens with any pixel to be sampled."""
    rows, columns = grid[-2:]
    *lead, y, x = resampled.shape
    cells = np.asarray(resampled.reshape(*lead, rows, y // rows, columns, x // columns).any(axis=(-3, -1)))
    if len(grid) == 2:
        return cells
    return np.stack([cells[:, list(group)].any(axis=1) for group in frame_groups(lead[1], grid[0])], axis=1)


def _pixels(tokens: Bool[np.ndarray, "n *grid"], shape: Sequence[int]) -> Bool[np.ndarray, "n *pixels"]:
    """The pixels of the tokens."""
    y, x = shape[-2] // tokens.shape[-2], shape[-1] // tokens.shape[-1]
    cells = tokens.repeat(y, axis=-2).repeat(x, axis=-1)
    if tokens.ndim == 3:
        return cells
    number = [j for j, group in enumerate(frame_groups(shape[1], tokens.shape[1])) for _ in group]
    return cells[:, number]


def frame_groups(frames: int, grids: int) -> list[range]:
    """The frames of each temporal position of the codes: the first alone, then equally many; the last may be fewer."""
    step = -(-(frames - 1) // (grids - 1)) if grids > 1 else 1
    return [range(1)] + [range(1 + j * step, min(1 + (j + 1) * step, frames)) for j in range(grids - 1)]
