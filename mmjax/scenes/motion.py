"""Moving scenes: clips of one thing in linear motion, with captions.

"a red circle moving left" leaves radius, position and speed free. Lengths are fractions of the side, x to the right and
y down.
"""

import dataclasses
import functools
import re

import numpy as np
from jaxtyping import UInt8

from mmjax.scenes.draw import BORDER, NEAR_RADIUS, Placed, draw_things
from mmjax.scenes.grammar import COLORS, SHAPES
from mmjax.types import UserError

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
MIN_TRAVEL = 0.3  # from the first frame to the last

_CAPTION = re.compile(rf"a ({'|'.join(COLORS)}) ({'|'.join(SHAPES)}) moving ({'|'.join(DIRECTIONS)})")


@dataclasses.dataclass(frozen=True)
class Moving:
    """A thing and its direction of motion."""

    shape: str
    color: str
    direction: str


def caption(scene: Moving) -> str:
    """The caption of a scene; `parse` is the inverse."""
    return f"a {scene.color} {scene.shape} moving {scene.direction}"


def parse(caption: str) -> Moving:
    """The scene of a caption.

    Raises:
        ValueError: for a text that is not in the grammar.
    """
    match = _CAPTION.fullmatch(caption)
    if not match:
        raise ValueError(f'caption {caption[:80]!r}: must be like "a red circle moving left"')
    color, shape, direction = match.groups()
    return Moving(shape, color, direction)


@functools.cache
def scenes(held_out: bool) -> tuple[Moving, ...]:
    """The 12 held-out scenes, or the 84 others.

    As in mmjax.scenes.grammar each shape and direction is held out three times, each color twice, and no two words
    together more than once: all pairs of words are trained on, but not these triples.
    """
    return tuple(
        Moving(shape, color, direction)
        for i, shape in enumerate(SHAPES)
        for j, color in enumerate(COLORS)
        for k, direction in enumerate(DIRECTIONS)
        if ((2 * i + j + 3 * k) % 8 == 0) == held_out
    )


def place(scene: Moving, frames: int, rng: np.random.Generator) -> list[Placed]:
    """The thing in each frame: within the image, at constant speed.

    Radius and path are sampled from `rng`, and are the same for any number of frames.

    Raises:
        UserError: for fewer than 2 frames.
    """
    if frames < 2:
        raise UserError(f"data.frames: a scene moves from 2 frames on, not in {frames}")
    radius = rng.uniform(*NEAR_RADIUS[None])
    first, last = BORDER + radius, 1 - BORDER - radius
    travel = rng.uniform(MIN_TRAVEL, last - first)
    start = rng.uniform(first, last - travel)
    across = rng.uniform(first, last)
    along = start + travel * np.arange(frames) / (frames - 1)
    right, down = DIRECTIONS[scene.direction]
    if right + down < 0:
        along = along[::-1]
    centers = [(position, across) if right else (across, position) for position in along.tolist()]
    return [Placed(scene.shape, scene.color, center, radius) for center in centers]


def draw(
    scene: Moving, size: int, frames: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "{frames} {size} {size} 3"]:
    """Renders the scene as uint8 [f, y, x, 3].

    Raises:
        UserError: for fewer than 2 frames, or frames below 32 pixels.
    """
    return np.stack([draw_things([thing], size) for thing in place(scene, frames, rng)])


def example_scene(index: int, seed: int, held_out: bool) -> tuple[Moving, np.random.Generator]:
    """The index-th scene, and the generator to render its clip with."""
    rng = np.random.default_rng((seed, index, held_out))
    known = scenes(held_out)
    return known[rng.integers(len(known))], rng


def example(
    index: int, size: int, frames: int, seed: int, held_out: bool
) -> tuple[UInt8[np.ndarray, "{frames} {size} {size} 3"], str]:
    """The index-th clip and its caption: a pure function of the arguments, all of them non-negative."""
    scene, rng = example_scene(index, seed, held_out)
    return draw(scene, size, frames, rng), caption(scene)
