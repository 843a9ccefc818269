"""A checker of clips: detects the thing in every frame, and follows its path."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8

from mmjax.scenes.check import Found, find
from mmjax.scenes.motion import DIRECTIONS, parse

# Thresholds on the straight line fitted to the path. A thing that jumps, goes back and forth or mostly stands still is
# farther from its line.
MIN_TRAVEL = 0.15  # in the direction, over the clip, as a fraction of the side
SLANT = 0.5  # across the direction, relative to the travel
UNSTEADINESS = 0.15  # RMS distance from the line, relative to the travel


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
    return bool(along >= MIN_TRAVEL and abs(across) <= SLANT * along and off <= UNSTEADINESS * along)
