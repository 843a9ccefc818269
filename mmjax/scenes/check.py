"""Finds the things in an image of a scene and says what of a caption is true of it.

Analysis by synthesis: each spot that stands out from the background is fitted by every shape, with place, radius,
softness of the edge and strength free (Gauss-Newton). It is the shape that leaves the least error, if that is small
and no other shape comes near. What fits no shape, color or size gets None there, and nothing is true of it.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from mmjax.scenes.draw import RING_HALF_WIDTH, TRIANGLE_HALF_HEIGHT, signed_distance
from mmjax.scenes.draw import relation as relation_of
from mmjax.scenes.grammar import COLORS, SHAPES, Scene, parse
from mmjax.types import UserError

# Features: luminance and two color differences (ITU-R BT.601), these at less weight: JPEG and models blur them most.
TO_FEATURES = np.diag([1.0, 0.6, 0.6]) @ [[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]]
PALETTE = np.array(list(COLORS.values())) @ TO_FEATURES.T
MIN_CONTRAST = 30.0  # distance of a color from the background below which nothing stands out

# What stands out, as a part of a color's distance from the background. A soft edge crosses the outline at one half; a
# ghost (seen on a smoothed image, which has less noise) is a thing too many however pale.
SPOT, GHOST = 0.5, 0.2
MIN_PIXELS = 4  # less is noise
MAX_SPOTS = 16  # more is texture, not things
REACH = 2.5  # pixels around a spot that are fitted with it: soft edges, JPEG's colors beyond the outline

# The fit: steps, the nudge that measures slopes, damping, and bounds of an edge's width, all in pixels.
STEPS, NUDGE, DAMPING = 3, 0.2, 0.3
SOFTNESS = (0.7, 4.0)
# Area at radius 1, by shape.
AREA = np.array([math.pi, math.pi, math.sqrt(3), math.pi * (1 - (1 - 2 * RING_HALF_WIDTH) ** 2)])

# What is good enough. Errors are parts of the thing's own energy; JPEG at quality 75 and 32 pixels reaches 0.03 for
# the shape (with the next shape at twice that), 0.11 for the color. A thing cut by a third, or halfway between two
# shapes or colors, lies beyond.
SHAPE_ERROR, SHAPE_RATIO = 0.05, 1.6  # of the best shape; of the second best to the best
COLOR_ERROR, COLOR_RATIO = 0.14, 0.5  # unevenness; of the distance to the nearest color to that to the next
SIZE_RANGES = {"small": (0.115, 0.16), "large": (0.185, 0.235)}  # radius; between the two it is neither


@dataclasses.dataclass(frozen=True)
class Found:
    """A thing in an image; None where it is none of the shapes, colors or sizes.

    Attributes:
        center: (x, y) of its bounding box, as fractions of the image's width and height.
        extent: twice its radius (see draw.Placed), as a fraction of the image's shorter side.
    """

    shape: str | None
    color: str | None
    size: str | None
    center: tuple[float, float]
    extent: float


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What of a caption is true of an image; `all` is true where the other four are."""

    shape: bool
    color: bool
    size: bool
    relation: bool

    @property
    def all(self) -> bool:
        return self.shape and self.color and self.size and self.relation


def find(image: UInt8[np.ndarray, "y x 3"]) -> list[Found]:
    """The things in an image of any origin, uint8 [y, x, 3], at least 32 pixels each way.

    Raises:
        UserError: for a smaller one.
    """
    if min(image.shape[:2]) < 32:
        raise UserError(f"image: must be at least 32 pixels each way, not {image.shape[1]} x {image.shape[0]}")
    factor = min(image.shape[:2]) // 32
    scale = (factor / image.shape[1], factor / image.shape[0])
    pixels = _features(image, factor)
    background = np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]), axis=0)
    pixels -= background
    palette = PALETTE - background

    spots, count = ndimage.label(_strength(pixels, palette) > SPOT, np.ones((3, 3)))
    large = np.bincount(spots.ravel(), minlength=count + 1) >= MIN_PIXELS
    large[0] = False
    if large.sum() > MAX_SPOTS:
        return []
    found, distance = [], np.full(spots.shape, np.inf)
    if large.any():
        distance, nearest = ndimage.distance_transform_edt(~large[spots], return_indices=True)
        owner = spots[tuple(nearest)]
        regions = ((owner == i) & (distance <= REACH) for i in np.flatnonzero(large))
        found = [_identify(pixels, palette, region, scale) for region in regions]

    smooth = ndimage.uniform_filter(pixels, (3, 3, 0), mode="nearest")
    ghosts, _ = ndimage.label((_strength(smooth, palette) > GHOST) & (distance > REACH))
    for i, (rows, columns) in enumerate(ndimage.find_objects(ghosts), start=1):
        if np.sum(ghosts[rows, columns] == i) >= MIN_PIXELS:
            center = (columns.start + columns.stop) / 2 * scale[0], (rows.start + rows.stop) / 2 * scale[1]
            found.append(Found(None, None, None, center, (columns.stop - columns.start) * max(scale)))
    return found


def judge(image: UInt8[np.ndarray, "y x 3"], caption: str) -> Verdict:
    """Says what of the caption is true of the image.

    Where there are exactly two things they are taken for subject and object in the way that agrees best. Color, shape
    and size are true where they are right for both (a size left open is right); the relation is judged by the centers.
    Where there are not exactly two things nothing else is true than sizes left open.

    Raises:
        ValueError: for a caption that is not of the grammar.
        UserError: for an image below 32 pixels.
    """
    scene = parse(caption)
    found = find(image)
    if len(found) != 2:
        size_is_open = scene.subject.size is None and scene.object.size is None
        return Verdict(False, False, size_is_open, False)
    first, second = found
    return max(_compare(scene, first, second), _compare(scene, second, first), key=lambda pair: pair[0])[1]


def _compare(scene: Scene, subject: Found, object: Found) -> tuple[tuple[int, bool], Verdict]:
    """How many words agree (then, the relation), and the verdict."""
    pairs = ((scene.subject, subject), (scene.object, object))
    shape = [said.shape == seen.shape for said, seen in pairs]
    color = [said.color == seen.color for said, seen in pairs]
    size = [said.size in (None, seen.size) for said, seen in pairs]
    relation = scene.relation == relation_of(subject.center, object.center)
    return (sum(shape + color + size), relation), Verdict(all(shape), all(color), all(size), relation)


def _features(image: UInt8[np.ndarray, "_ _ 3"], factor: int) -> Float[np.ndarray, "y x 3"]:
    """The image in the features above, averaged over blocks: 32 to 63 pixels are enough to tell shapes apart."""
    height, width = (n // factor for n in image.shape[:2])
    blocks = image[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    return blocks.mean(axis=(1, 3)) @ TO_FEATURES.T


def _lengths(palette: Float[np.ndarray, "k 3"]) -> Float[np.ndarray, "k"]:
    return np.maximum(np.linalg.norm(palette, axis=1), MIN_CONTRAST)


def _strength(pixels: Float[np.ndarray, "y x 3"], palette: Float[np.ndarray, "k 3"]) -> Float[np.ndarray, "y x"]:
    """Distance from the background (0), relative to that of the color in whose direction it lies (1)."""
    lengths = _lengths(palette)
    best = np.argmax(pixels @ (palette / lengths[:, None]).T, axis=-1)
    return np.sqrt(np.sum(pixels * pixels, axis=-1)) / lengths[best]


def _identify(
    pixels: Float[np.ndarray, "y x 3"],
    palette: Float[np.ndarray, "k 3"],
    region: Bool[np.ndarray, "y x"],
    scale: tuple[float, float],
) -> Found:
    """What the pixels of a region show; `scale` turns pixels into fractions of width and height."""
    rows, columns = np.nonzero(region)
    values = pixels[rows, columns]
    total = values.sum(axis=0)
    lengths = _lengths(palette)
    likely = np.argmax(palette @ total / lengths)
    cover = values @ palette[likely] / lengths[likely] ** 2

    fits, shapes = _fit_shapes(cover, columns + 0.5, rows + 0.5)
    weight = _weights(shapes, cover)
    errors = np.sum((cover - weight * shapes) ** 2, axis=1) / max(np.sum(cover**2), 1.0)
    best, second = np.argsort(errors)[:2]
    x, y, radius, softness = fits[best].tolist()
    is_shape = errors[best] < SHAPE_ERROR and errors[second] > SHAPE_RATIO * errors[best] and softness < SOFTNESS[1]

    # The color by sums, which blurring does not change.
    color = total / max(np.sum(shapes[best]), 1.0)
    distances = np.linalg.norm(palette - color, axis=1)
    near, next_near = np.argsort(distances)[:2]
    unevenness = np.sum((values - shapes[best][:, None] * color) ** 2) / max(np.sum(values**2), 1.0)
    is_color = distances[near] < COLOR_RATIO * distances[next_near] and unevenness < COLOR_ERROR
    radius *= max(scale)
    return Found(
        SHAPES[best] if is_shape else None,
        tuple(COLORS)[near] if is_color else None,
        next((name for name, (low, high) in SIZE_RANGES.items() if low <= radius <= high), None),
        (x * scale[0], y * scale[1]),
        2 * radius,
    )


def _weights(shapes: Float[np.ndarray, "s n"], cover: Float[np.ndarray, "n"]) -> Float[np.ndarray, "s 1"]:
    """The factor that brings each shape nearest to the cover."""
    return (shapes @ cover / np.maximum(np.sum(shapes * shapes, axis=1), 1.0))[:, None]


def _fit_shapes(
    cover: Float[np.ndarray, "n"], x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "s 4"], Float[np.ndarray, "s n"]]:
    """Fits every shape to how far each pixel is covered, by damped Gauss-Newton steps.

    Returns:
        For each shape x, y, radius and softness, in pixels; and the cover of each pixel that they give.
    """
    area = max(cover.sum(), 1.0)
    fits = np.tile([np.mean(x), np.mean(y), 0.0, 2.0], (len(SHAPES), 1))
    if cover.sum() > 1:
        fits[:, :2] = cover @ x / area, cover @ y / area
    fits[:, 2] = np.sqrt(area / AREA)
    triangle = SHAPES.index("triangle")
    fits[triangle, 1] -= TRIANGLE_HALF_HEIGHT / 3 * fits[triangle, 2]  # from the centroid to the middle of the box
    nudges = NUDGE * np.concatenate([np.zeros((1, 4)), np.eye(4)])
    for _ in range(STEPS):
        plain, nudged = np.split(_cover(fits[:, None] + nudges, x, y), [1], axis=1)
        weight = _weights(plain[:, 0], cover)
        # The strength of the color is a fifth unknown: without it in the steps, radius and strength would fight.
        slopes = np.concatenate([(nudged - plain) / NUDGE * weight[..., None], plain], axis=1)
        normal = slopes @ slopes.transpose(0, 2, 1) + DAMPING * np.eye(5)
        steps = np.linalg.solve(normal, slopes @ (cover - weight * plain[:, 0])[..., None])
        fits += np.clip(steps[:, :4, 0], -1.5, 1.5)
        fits[:, 2] = np.maximum(fits[:, 2], 1.0)
        fits[:, 3] = np.clip(fits[:, 3], *SOFTNESS)
    return fits, _cover(fits[:, None], x, y)[:, 0]


def _cover(
    fits: Float[np.ndarray, "s p 4"], x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "s p n"]:
    """How far each shape, at p settings each, covers each pixel."""
    center_x, center_y, radius, softness = (fits[..., i, None] for i in range(4))
    away = [signed_distance(shape, x - center_x[i], y - center_y[i], radius[i]) for i, shape in enumerate(SHAPES)]
    return np.clip(0.5 - np.stack(away) / softness, 0.0, 1.0)
