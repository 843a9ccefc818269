"""What a masked generator starts from: nothing, an image with a mask, an image to vary, a clip to go on with."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from mmjax.sample.postprocess import from_uint8, to_uint8
from mmjax.types import UserError


@dataclass(frozen=True)
class Start:
    """What is kept, and what is drawn.

    Attributes:
        masked: the visual tokens to draw.
        image: images or whole clips whose tokens are kept elsewhere, -1 to 1; None where all are drawn.
        anew: the pixels that are not kept as they are.
    """

    masked: Bool[np.ndarray, "n *grid"]
    image: Float32[np.ndarray, "n *pixels 3"] | None = None
    anew: Bool[np.ndarray, "n *pixels"] | None = None


def start(
    grid: Sequence[int],
    size: int,
    frames: int,
    seeds: Int[np.ndarray, "n"],
    image: Any = None,
    mask: Any = None,
    variation: float | None = None,
) -> Start:
    """Checks what is asked for, and says which visual tokens are drawn.

    Args:
        grid: shape of an example's tokens, (rows, columns) or (frames, rows, columns).
        size, frames: of the model's images or clips.
        seeds: what the places that are varied depend on.
        image, mask, variation: see GenerativeModel.generate.

    Raises:
        UserError: for a wrong shape, type or range, or a mask without an image.
    """
    count = len(seeds)
    if image is None:
        for name, value in (("mask", mask), ("variation", variation)):
            if value is not None:
                raise UserError(f"{name}: needs an image to keep the rest of")
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
        raise UserError("image: give mask or variation too, to say what is to be drawn anew")
    if clip:  # the last frame stands for those that are missing
        images = np.concatenate([images, np.repeat(images[:, -1:], frames - given, axis=1)], axis=1)
    anew = np.zeros(images.shape[:-1], np.bool_)
    if clip:
        anew[:, given:] = True
    if mask is not None:
        part = anew[:, :given] if clip else anew
        part |= _mask(mask, part.shape)
    masked = _tokens(anew, grid)
    if variation is not None:
        varied = _varied(grid, seeds, variation)
        masked |= varied
        anew |= _pixels(varied, anew.shape)
    return Start(masked, images, anew)


def keep(drawn: UInt8[np.ndarray, "n *pixels 3"], begin: Start) -> UInt8[np.ndarray, "n *pixels 3"]:
    """What was drawn, with the pixels that are kept as they were."""
    if begin.image is None or begin.anew is None:
        return drawn
    return np.where(begin.anew[..., None], drawn, to_uint8(begin.image))


def images_of(name: str, values: Any, shape: tuple[int, ...] | None = None) -> Float32[np.ndarray, "n *pixels 3"]:
    """Images as models take them, -1 to 1.

    Raises:
        UserError: for other than float32 from -1 to 1 or uint8, or another shape.
    """
    try:
        images = np.asarray(values)
    except ValueError as error:
        raise UserError(f"{name}: must be one array, and these are of different shapes") from error
    if (shape and images.shape != shape) or images.dtype not in (np.float32, np.uint8):
        wanted = f" {list(shape)}" if shape else ""
        raise UserError(f"{name}: must be float32 or uint8{wanted}, not {images.dtype} {list(images.shape)}")
    if images.dtype == np.uint8:
        return from_uint8(images)
    if not np.all(np.abs(images) <= 1):
        raise UserError(f"{name}: values must be from -1 (black) to 1 (white); a uint8 image may be given as it is")
    return images


def _mask(mask: Any, shape: tuple[int, ...]) -> Bool[np.ndarray, "n *pixels"]:
    values = np.asarray(mask)
    if values.shape != shape or values.dtype not in (np.bool_, np.uint8):
        raise UserError(f"mask: must be bool or uint8 {list(shape)}, not {values.dtype} {list(values.shape)}")
    if values.dtype == np.uint8:
        others = values[(values != 0) & (values != 255)]
        if others.size:
            raise UserError(
                f"mask: must hold nothing but 0 (keep) and 255 (draw anew), and {others.size:,} of {values.size:,} "
                f"pixels are grey, such as {others[0]}"
            )
    return values.astype(np.bool_)


def _varied(grid: Sequence[int], seeds: Int[np.ndarray, "n"], share: float) -> Bool[np.ndarray, "n *grid"]:
    if not 0 < share <= 1:
        raise UserError(f"variation: must be above 0 and at most 1, not {share}")
    count = math.prod(grid)
    places = [np.random.default_rng(int(seed)).permutation(count) for seed in seeds]
    return (np.stack(places) < max(round(share * count), 1)).reshape(len(seeds), *grid)


def _tokens(anew: Bool[np.ndarray, "n *pixels"], grid: Sequence[int]) -> Bool[np.ndarray, "n *grid"]:
    """The tokens any of whose pixels is drawn anew."""
    rows, columns = grid[-2:]
    *lead, y, x = anew.shape
    cells = np.asarray(anew.reshape(*lead, rows, y // rows, columns, x // columns).any(axis=(-3, -1)))
    if len(grid) == 2:
        return cells
    return np.stack([cells[:, list(group)].any(axis=1) for group in frame_groups(lead[1], grid[0])], axis=1)


def _pixels(tokens: Bool[np.ndarray, "n *grid"], shape: Sequence[int]) -> Bool[np.ndarray, "n *pixels"]:
    """The pixels of tokens."""
    y, x = shape[-2] // tokens.shape[-2], shape[-1] // tokens.shape[-1]
    cells = tokens.repeat(y, axis=-2).repeat(x, axis=-1)
    if tokens.ndim == 3:
        return cells
    number = [j for j, group in enumerate(frame_groups(shape[1], tokens.shape[1])) for _ in group]
    return cells[:, number]


def frame_groups(frames: int, grids: int) -> list[range]:
    """The frames that each grid of codes stands for: the first alone, then equally many; the last may be fewer."""
    step = -(-(frames - 1) // (grids - 1)) if grids > 1 else 1
    return [range(1)] + [range(1 + j * step, min(1 + (j + 1) * step, frames)) for j in range(grids - 1)]
