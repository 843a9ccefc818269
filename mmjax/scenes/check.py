"""A checker: detects the things in an image of a scene and compares them with a caption.

Analysis by synthesis: each spot that differs from the background is fitted by every shape, with free position, radius,
edge softness and strength (Gauss-Newton). The shape with the smallest error is taken, if the error is small and no
other shape comes close. A shape, color or size that fits none is None, which matches no caption.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float, UInt8

from mmjax.scenes.draw import RING_HALF_WIDTH, TRIANGLE_HALF_HEIGHT, signed_distance
from mmjax.scenes.draw import relation as relation_of
from mmjax.scenes.grammar import COLORS, SHAPES, Scene, parse
from mmjax.types import UserError

# Features: luma and two color differences (ITU-R BT.601); these have less weight, as JPEG and models blur them most.
TO_FEATURES = np.diag([1.0, 0.6, 0.6]) @ [[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]]
PALETTE = np.array(list(COLORS.values())) @ TO_FEATURES.T
MIN_CONTRAST = 30.0  # least distance of a color from the background

# Detection thresholds, as fractions of a color's distance from the background. A soft edge is at one half at the
# outline; a ghost (detected on a smoothed image, which has less noise) is an extra thing, however pale.
SPOT, GHOST = 0.5, 0.2
MIN_PIXELS = 4  # fewer are noise
MAX_SPOTS = 16  # more is texture, not things
REACH = 2.5  # pixels around a spot to fit as well: soft edges, and JPEG's colors beyond the outline

# The fit: steps, finite difference, damping, and bounds of the edge's width, all in pixels.
STEPS, DELTA, DAMPING = 3, 0.2, 0.3
SOFTNESS = (0.7, 4.0)
# Area at radius 1, by shape.
AREA = np.array([math.pi, math.pi, math.sqrt(3), math.pi * (1 - (1 - 2 * RING_HALF_WIDTH) ** 2)])

# Acceptance thresholds. Errors are fractions of the thing's energy: with JPEG at quality 75 and 32 pixels up to 0.03
# for the shape (the next shape at twice that) and 0.11 for the color. A thing with a third cut off, or halfway between
# two shapes or colors, is above.
SHAPE_ERROR, SHAPE_RATIO = 0.05, 1.6  # of the best shape; second best to best
COLOR_ERROR, COLOR_RATIO = 0.14, 0.5  # unevenness; distance to the nearest color relative to the next
SIZE_RANGES = {"small": (0.115, 0.16), "large": (0.185, 0.235)}  # radius; in between it is neither


@dataclasses.dataclass(frozen=True)
class Found:
    """A detected thing; None for a shape, color or size that matches none.

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
    """Which parts of a caption are true of an image; `all` if all four are."""

    shape: bool
    color: bool
    size: bool
    relation: bool

    @property
    def all(self) -> bool:
        return self.shape and self.color and self.size and self.relation


def find(image: UInt8[np.ndarray, "y x 3"]) -> list[Found]:
    """Detects the things in any image, uint8 [y, x, 3]; raises UserError for one below 32 pixels a side."""
    from scipy import ndimage  # slow to import, and every command that reads a config imports the evaluators

    if min(image.shape[:2]) < 32:
        raise UserError(f"image: must be at least 32 pixels each way, not {image.shape[1]} x {image.shape[0]}")
    factor = min(image.shape[:2]) // 32
    scale = (factor / image.shape[1], factor / image.shape[0])
    # Averaged over blocks to 32 to 63 pixels, which are enough to tell shapes apart.
    height, width = (n // factor for n in image.shape[:2])
    blocks = image[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    pixels = blocks.mean(axis=(1, 3)) @ TO_FEATURES.T
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
    """Checks which parts of a caption are true of an image.

    If there are exactly two things, they are assigned to subject and object in the way that agrees best. Color, shape
    and size are true if correct for both (an unspecified size is correct); the relation is that of the centers.
    Otherwise only unspecified sizes are true.

    Raises:
        ValueError: for a caption that is not in the grammar.
        UserError: for an image below 32 pixels.
    """
    scene = parse(caption)
    found = find(image)
    if len(found) != 2:
        size_is_free = scene.subject.size is None and scene.object.size is None
        return Verdict(False, False, size_is_free, False)
    first, second = found
    return max(_compare(scene, first, second), _compare(scene, second, first), key=lambda pair: pair[0])[1]


def _compare(scene: Scene, subject: Found, object: Found) -> tuple[tuple[int, bool], Verdict]:
    """The number of correct words and whether the relation is correct, and the verdict."""
    pairs = ((scene.subject, subject), (scene.object, object))
    shape = [said.shape == seen.shape for said, seen in pairs]
    color = [said.color == seen.color for said, seen in pairs]
    size = [said.size in (None, seen.size) for said, seen in pairs]
    relation = scene.relation == relation_of(subject.center, object.center)
    return (sum(shape + color + size), relation), Verdict(all(shape), all(color), all(size), relation)


def _lengths(palette: Float[np.ndarray, "k 3"]) -> Float[np.ndarray, "k"]:
    return np.maximum(np.linalg.norm(palette, axis=1), MIN_CONTRAST)


def _strength(pixels: Float[np.ndarray, "y x 3"], palette: Float[np.ndarray, "k 3"]) -> Float[np.ndarray, "y x"]:
    """Distance from the background (0), relative to that of the color in its direction (1)."""
    lengths = _lengths(palette)
    best = np.argmax(pixels @ (palette / lengths[:, None]).T, axis=-1)
    return np.sqrt(np.sum(pixels * pixels, axis=-1)) / lengths[best]


def _identify(
    pixels: Float[np.ndarray, "y x 3"],
    palette: Float[np.ndarray, "k 3"],
    region: Bool[np.ndarray, "y x"],
    scale: tuple[float, float],
) -> Found:
    """The thing in a region; `scale` converts pixels to fractions of width and height."""
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

    # The color is a sum over pixels, which blur does not change.
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
    """The least-squares scale of each shape to the cover."""
    return (shapes @ cover / np.maximum(np.sum(shapes * shapes, axis=1), 1.0))[:, None]


def _fit_shapes(
    cover: Float[np.ndarray, "n"], x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "s 4"], Float[np.ndarray, "s n"]]:
    """Fits every shape to the coverage of the pixels by damped Gauss-Newton steps.

    Returns:
        For each shape x, y, radius and softness in pixels, and the coverage of each pixel.
    """
    area = max(cover.sum(), 1.0)
    fits = np.tile([np.mean(x), np.mean(y), 0.0, 2.0], (len(SHAPES), 1))
    if cover.sum() > 1:
        fits[:, :2] = cover @ x / area, cover @ y / area
    fits[:, 2] = np.sqrt(area / AREA)
    triangle = SHAPES.index("triangle")
    fits[triangle, 1] -= TRIANGLE_HALF_HEIGHT / 3 * fits[triangle, 2]  # from the centroid to the middle of the box
    deltas = DELTA * np.concatenate([np.zeros((1, 4)), np.eye(4)])
    for _ in range(STEPS):
        plain, shifted = np.split(_cover(fits[:, None] + deltas, x, y), [1], axis=1)
        weight = _weights(plain[:, 0], cover)
        # The strength of the color is a fifth unknown, since it is correlated with the radius.
        slopes = np.concatenate([(shifted - plain) / DELTA * weight[..., None], plain], axis=1)
        normal = slopes @ slopes.transpose(0, 2, 1) + DAMPING * np.eye(5)
        steps = np.linalg.solve(normal, slopes @ (cover - weight * plain[:, 0])[..., None])
        fits += np.clip(steps[:, :4, 0], -1.5, 1.5)
        fits[:, 2] = np.maximum(fits[:, 2], 1.0)
        fits[:, 3] = np.clip(fits[:, 3], *SOFTNESS)
    return fits, _cover(fits[:, None], x, y)[:, 0]


def _cover(
    fits: Float[np.ndarray, "s p 4"], x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "s p n"]:
    """The coverage of each pixel by each shape, at p settings each."""
    center_x, center_y, radius, softness = (fits[..., i, None] for i in range(4))
    away = [signed_distance(shape, x - center_x[i], y - center_y[i], radius[i]) for i, shape in enumerate(SHAPES)]
    return np.clip(0.5 - np.stack(away) / softness, 0.0, 1.0)
