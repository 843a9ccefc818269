"""A renderer of scenes: flat shapes with antialiased edges on a dark, neutral background, from 32 pixels up.

Lengths and positions are fractions of the image's side, x to the right and y down, so that a scene looks the same at
any size.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from mmjax.scenes.grammar import COLORS, Scene, caption, random_scene
from mmjax.types import UserError

BACKGROUND = (22, 22, 24)
RADIUS = {"small": 0.14, "large": 0.205}
NEAR_RADIUS = {"small": (0.13, 0.15), "large": (0.19, 0.21), None: (0.13, 0.21)}  # if not fully specified
BORDER = 0.032  # between a thing and the edge of the image
GAP = 0.075  # between two things
SLANT = 0.6  # largest displacement across the relation's axis, relative to that along it
AXIS = {"left of": (0, 1), "right of": (0, -1), "above": (1, 1), "below": (1, -1)}  # axis; 1 where the subject is first

# A square of the same area as the circle of that radius, and an equilateral triangle of its width.
SQUARE_HALF = math.sqrt(math.pi) / 2
TRIANGLE_HALF_HEIGHT = math.sqrt(3) / 2
RING_MIDDLE, RING_HALF_WIDTH = 0.77, 0.23


@dataclasses.dataclass(frozen=True)
class Placed:
    """A thing with its position: the center (x, y) of its bounding box, and its radius, about half of that box."""

    shape: str
    color: str
    center: tuple[float, float]
    radius: float


def signed_distance(
    shape: str, x: Float[np.ndarray, "..."], y: Float[np.ndarray, "..."], radius: float | Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Signed distance to the outline of a shape at the origin, negative inside; exact along edges, less at corners."""
    if shape == "circle":
        distance = np.sqrt(x * x + y * y) - radius
    elif shape == "ring":
        distance = np.abs(np.sqrt(x * x + y * y) - RING_MIDDLE * radius) - RING_HALF_WIDTH * radius
    elif shape == "square":
        distance = np.maximum(np.abs(x), np.abs(y)) - SQUARE_HALF * radius
    else:
        sides = TRIANGLE_HALF_HEIGHT * np.abs(x) - 0.5 * y - TRIANGLE_HALF_HEIGHT / 2 * radius
        distance = np.maximum(sides, y - TRIANGLE_HALF_HEIGHT * radius)
    return np.asarray(distance)


def draw_things(things: Sequence[Placed], size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Renders things, later ones over earlier ones; raises UserError for an image below 32 pixels."""
    if size < 32:
        raise UserError(f"image size: scenes are drawn from 32 pixels up, not {size}")
    places = (np.arange(size) + 0.5) / size
    image = np.broadcast_to(np.array(BACKGROUND, np.float64), (size, size, 3)).copy()
    for thing in things:
        x, y = thing.center
        distance = signed_distance(thing.shape, places[None, :] - x, places[:, None] - y, thing.radius)
        cover = np.clip(0.5 - distance * size, 0.0, 1.0)[..., None]
        image += cover * (np.array(COLORS[thing.color], np.float64) - image)
    return np.rint(image).astype(np.uint8)


def place(scene: Scene, rng: np.random.Generator) -> tuple[Placed, Placed]:
    """Positions and radii of subject and object; sampled from `rng` unless the caption determines them."""
    axis, sign = AXIS[scene.relation]
    things = (scene.subject, scene.object)
    if scene.fully_specified:
        radii = [RADIUS[thing.size] for thing in things if thing.size]
        along, across = [0.25, 0.75][::sign], [0.5, 0.5]
    else:
        radii = [rng.uniform(*NEAR_RADIUS[thing.size]) for thing in things]
        along, across = _random_places(radii[::sign], rng)
        along, across = along[::sign], across[::sign]
    centers = list(zip(along, across, strict=True) if axis == 0 else zip(across, along, strict=True))
    first, second = (Placed(t.shape, t.color, c, r) for t, c, r in zip(things, centers, radii, strict=True))
    return first, second


def _random_places(radii: Sequence[float], rng: np.random.Generator) -> tuple[list[float], list[float]]:
    """Coordinates along and across the relation's axis, for the first and the second thing along it."""
    first, second = radii
    low, high = sorted(rng.uniform(size=2))
    room = 1 - 2 * (BORDER + first + second) - GAP
    along = [BORDER + first + room * low, 1 - BORDER - second - room * (1 - high)]
    reach = SLANT * (along[1] - along[0])
    across = rng.uniform(BORDER + first, 1 - BORDER - first)
    bounds = max(BORDER + second, across - reach), min(1 - BORDER - second, across + reach)
    return along, [across, rng.uniform(*bounds)]


def relation(subject: tuple[float, float], object: tuple[float, float]) -> str:
    """The relation of a subject to an object, by their centers (x, y): along the axis on which they differ most."""
    right, down = (a - b for a, b in zip(subject, object, strict=True))
    if abs(right) > abs(down):
        return "right of" if right > 0 else "left of"
    return "below" if down > 0 else "above"


def draw(scene: Scene, size: int, rng: np.random.Generator) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Renders the scene as uint8 [y, x, 3].

    If the caption names both sizes it determines the image, and `rng` is not used. Otherwise radii and positions are
    sampled: things lie within the image and do not touch, and the relation is unambiguous.
    """
    return draw_things(place(scene, rng), size)


def example_scene(index: int, seed: int, fully_specified: bool, held_out: bool) -> tuple[Scene, np.random.Generator]:
    """The index-th scene, and the generator to render its image with."""
    rng = np.random.default_rng((seed, index, fully_specified, held_out))
    return random_scene(rng, fully_specified, held_out), rng


def example(
    index: int, size: int, seed: int, fully_specified: bool, held_out: bool
) -> tuple[UInt8[np.ndarray, "{size} {size} 3"], str]:
    """The index-th image and its caption: a pure function of the arguments, all of them non-negative."""
    scene, rng = example_scene(index, seed, fully_specified, held_out)
    return draw(scene, size, rng), caption(scene)
