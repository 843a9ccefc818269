"""Moving scenes: clips of one thing in linear motion with captions, and a checker for them.

"a red circle moving left" leaves radius, position and speed free. Lengths are fractions of the side, x to the right and
y down.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8

from mmjax.scenes.check import Found, find
from mmjax.scenes.draw import BORDER, NEAR_RADIUS, Placed, draw_things
from mmjax.scenes.grammar import COLORS, SHAPES, triple_held_out

DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
MIN_TRAVEL = 0.3  # from the first frame to the last

# Thresholds of the checker on the straight line fitted to the path. A thing that jumps, goes back and forth or mostly
# stands still is farther from its line.
MIN_FOUND_TRAVEL = 0.15  # in the direction, over the clip, as a fraction of the side
MAX_SLANT = 0.5  # across the direction, relative to the travel
MAX_UNSTEADINESS = 0.15  # RMS distance from the line, relative to the travel

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
    """The scene of a caption; raises ValueError for a text that is not in the grammar."""
    match = _CAPTION.fullmatch(caption)
    if not match:
        raise ValueError(f'caption {caption[:80]!r}: must be like "a red circle moving left"')
    color, shape, direction = match.groups()
    return Moving(shape, color, direction)


@functools.cache
def scenes(held_out: bool) -> tuple[Moving, ...]:
    """The 12 held-out scenes (see triple_held_out), or the 84 others."""
    return tuple(
        Moving(shape, color, direction)
        for shape, color, (third, direction) in itertools.product(SHAPES, COLORS, enumerate(DIRECTIONS))
        if triple_held_out(shape, color, third) == held_out
    )


def place(scene: Moving, frames: int, rng: np.random.Generator) -> list[Placed]:
    """The thing in each frame, at least 2: within the image, at constant speed.

    Radius and path are sampled from `rng`, and are the same for any number of frames.
    """
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
    """Renders the scene as uint8 [f, y, x, 3]; raises UserError for fewer than 32 pixels a side."""
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


@dataclasses.dataclass(frozen=True)
class ClipVerdict:
    """Which parts of a caption are true of a clip; `all` if all four are.

    Attributes:
        motion: the thing moves straight and steadily in the direction.
        color, shape: as in the caption, in more than half of the frames.
        consistency: every frame has exactly one thing, always of the same color and shape.
    """

    motion: bool
    color: bool
    shape: bool
    consistency: bool

    @property
    def all(self) -> bool:
        return self.motion and self.color and self.shape and self.consistency


def judge_clip(clip: UInt8[np.ndarray, "f y x 3"], caption: str) -> ClipVerdict:
    """Checks which parts of a caption are true of a clip, uint8 [f, y, x, 3], of at least 32 pixels a side.

    Frames without exactly one thing count as wrong.

    Raises:
        ValueError: for a caption that is not in the grammar of motion.
        UserError: for frames below 32 pixels.
    """
    scene = parse(caption)
    frames = len(clip)
    found = [find(frame) for frame in clip]
    seen = {i: things[0] for i, things in enumerate(found) if len(things) == 1}
    kinds = {(thing.shape, thing.color) for thing in seen.values()}
    return ClipVerdict(
        motion=2 * len(seen) > frames and _moves(seen, frames, scene.direction),
        color=2 * sum(thing.color == scene.color for thing in seen.values()) > frames,
        shape=2 * sum(thing.shape == scene.shape for thing in seen.values()) > frames,
        consistency=len(seen) == frames and len(kinds) == 1 and None not in kinds.pop(),
    )


def _moves(seen: Mapping[int, Found], frames: int, direction: str) -> bool:
    if len(seen) < 2:
        return False
    times, path = np.array(list(seen)), np.array([thing.center for thing in seen.values()])
    speed, start = np.polyfit(times, path, 1)
    right, down = DIRECTIONS[direction]
    along, across = (frames - 1) * (speed @ [right, down]), (frames - 1) * (speed @ [down, right])
    off = np.sqrt(np.mean(np.sum((path - start - times[:, None] * speed) ** 2, axis=1)))
    return bool(along >= MIN_FOUND_TRAVEL and abs(across) <= MAX_SLANT * along and off <= MAX_UNSTEADINESS * along)
