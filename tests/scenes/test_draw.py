"""Images of scenes: determined by the caption or within its bounds, with shapes equal to Pillow's."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy import ndimage

from mmjax.scenes.draw import BACKGROUND, Placed, draw, draw_things, example, example_scene, place
from mmjax.scenes.grammar import COLORS, RELATIONS, SHAPES, SIZES, Scene, Thing, caption, parse, random_scene
from mmjax.types import UserError

seeds = st.integers(0, 2**32 - 1)


def drawn_by_pillow(thing: Placed, size: int, scale: int = 16) -> np.ndarray:
    image = Image.new("L", (size * scale, size * scale))
    canvas = ImageDraw.Draw(image)
    x, y, r = (number * size * scale for number in (*thing.center, thing.radius))
    if thing.shape in ("circle", "ring"):
        canvas.ellipse((x - r, y - r, x + r, y + r), fill=255)
    if thing.shape == "ring":
        canvas.ellipse((x - 0.54 * r, y - 0.54 * r, x + 0.54 * r, y + 0.54 * r), fill=0)
    if thing.shape == "square":
        half = r * math.sqrt(math.pi / 4)
        canvas.rectangle((x - half, y - half, x + half, y + half), fill=255)
    if thing.shape == "triangle":
        high = r * math.sqrt(3 / 4)
        canvas.polygon(((x, y - high), (x - r, y + high), (x + r, y + high)), fill=255)
    cover = np.asarray(image, np.float64).reshape(size, scale, size, scale).mean((1, 3))[..., None] / 255
    return np.array(BACKGROUND) * (1 - cover) + np.array(COLORS[thing.color]) * cover


@pytest.mark.parametrize("size", [37, 61])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_equal_those_of_pillow(shape: str, size: int) -> None:
    for (i, color), radius in itertools.product(enumerate(COLORS), (0.14, 0.205)):
        thing = Placed(shape, color, (0.4 + 0.013 * i, 0.57 - 0.017 * i), radius)
        difference = np.abs(draw_things([thing], size) - drawn_by_pillow(thing, size))
        assert difference.max() < 0.3 * 255  # at sharp corners, where distances cut less than areas do
        assert difference.mean() < 0.4


def test_later_things_occlude_earlier_ones() -> None:
    image = draw_things([Placed("circle", "red", (0.5, 0.5), 0.3), Placed("square", "blue", (0.5, 0.5), 0.1)], 47)
    assert image[23, 23].tolist() == list(COLORS["blue"])
    assert image[23, 33].tolist() == list(COLORS["red"])
    assert image[0, 0].tolist() == list(BACKGROUND)


@given(seeds, st.integers(32, 131))
def test_fully_specified_image_is_determined_by_its_caption(seed: int, size: int) -> None:
    scene = random_scene(np.random.default_rng(seed), fully_specified=True, held_out=False)
    rng, other = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    before = rng.bit_generator.state
    image = draw(scene, size, rng)
    assert rng.bit_generator.state == before
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, draw(scene, size, other))


@pytest.mark.parametrize(
    ("relation", "subject", "object"),
    [
        ("left of", (0.25, 0.5), (0.75, 0.5)),
        ("right of", (0.75, 0.5), (0.25, 0.5)),
        ("above", (0.5, 0.25), (0.5, 0.75)),
        ("below", (0.5, 0.75), (0.5, 0.25)),
    ],
)
def test_relation_determines_the_centers(
    relation: str, subject: tuple[float, float], object: tuple[float, float]
) -> None:
    image = draw(parse(f"a small red circle {relation} a large blue square"), 101, np.random.default_rng(0))
    weight = np.abs(image.astype(float) - BACKGROUND)
    for channel, (x, y), area in ((0, subject, math.pi * 0.14**2), (2, object, math.pi * 0.205**2)):
        # Red and blue are told apart by the channel in which each is strong.
        part = weight[..., channel] * (weight[..., channel] > weight[..., 2 - channel])
        rows, columns = ndimage.center_of_mass(part)
        assert ((columns + 0.5) / 101, (rows + 0.5) / 101) == pytest.approx((x, y), abs=0.005)
        assert part.sum() / part.max() / 101**2 == pytest.approx(area, rel=0.02)


@given(seeds, st.integers(32, 97), st.sampled_from([True, False]))
def test_things_are_inside_apart_and_in_relation(seed: int, size: int, fully_specified: bool) -> None:
    rng = np.random.default_rng(seed)
    scene = random_scene(rng, fully_specified=fully_specified, held_out=False)
    subject, object = place(scene, rng)
    image = draw_things((subject, object), size)
    difference = np.abs(image.astype(int) - BACKGROUND).max(axis=-1)
    edge = np.concatenate([difference[[0, -1]].ravel(), difference[:, [0, -1]].ravel()])
    assert edge.max() < 0.2 * 255  # at 32 pixels the soft corner of a triangle may tint it
    stands_out = difference > 0
    spots, count = ndimage.label(stands_out, np.ones((3, 3)))
    assert count == 2
    # Between the nearest tinted pixels of the two lies at least one that is background, which is two from full to full.
    gap = ndimage.distance_transform_edt(spots != 1)[spots == 2].min()
    assert gap >= 2
    right, down = (a - b for a, b in zip(subject.center, object.center, strict=True))
    along = {"left of": -right, "right of": right, "above": -down, "below": down}[scene.relation]
    across = down if scene.relation in ("left of", "right of") else right
    assert along > 0.3
    assert abs(across) <= 0.6 * along + 1e-9


def test_underspecified_images_differ_in_position_and_size() -> None:
    rng = np.random.default_rng(5)
    scene = parse("a red circle above a green ring")
    places = [place(scene, rng) for _ in range(200)]
    centers = np.array([[thing.center for thing in pair] for pair in places])
    radii = np.array([[thing.radius for thing in pair] for pair in places])
    assert np.all(np.ptp(centers, axis=0) > 0.25)
    assert np.all((radii >= 0.13) & (radii <= 0.21))
    assert np.all(np.ptp(radii, axis=0) > 0.07)


def test_one_named_size_is_respected() -> None:
    rng = np.random.default_rng(7)
    scene = Scene(Thing("circle", "red", "small"), "right of", Thing("ring", "cyan"))
    radii = np.array([[thing.radius for thing in place(scene, rng)] for _ in range(100)])
    assert radii[:, 0].max() <= 0.15
    assert radii[:, 1].max() > 0.19


def test_examples_are_a_pure_function_of_their_arguments() -> None:
    image, text = example(11, 41, seed=3, fully_specified=False, held_out=False)
    again, same = example(11, 41, seed=3, fully_specified=False, held_out=False)
    assert text == same
    np.testing.assert_array_equal(image, again)
    others = [(12, 3, False, False), (11, 4, False, False), (11, 3, True, False), (11, 3, False, True)]
    for index, seed, fully_specified, held_out in others:
        other, _ = example(index, 41, seed=seed, fully_specified=fully_specified, held_out=held_out)
        assert not np.array_equal(image, other)


def test_examples_cover_every_word() -> None:
    words = " ".join(example(i, 32, seed=1, fully_specified=True, held_out=False)[1] for i in range(100))
    assert all(word in words for word in (*SHAPES, *COLORS, *SIZES, *RELATIONS))


def test_too_small_image_is_refused() -> None:
    with pytest.raises(UserError, match="from 32 pixels up, not 31"):
        example(0, 31, seed=0, fully_specified=True, held_out=False)


@given(st.integers(0, 10**6), st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_example_scene_matches_its_image(index: int, seed: int, fully_specified: bool, held_out: bool) -> None:
    image, text = example(index, 37, seed, fully_specified, held_out)
    scene, rng = example_scene(index, seed, fully_specified, held_out)
    assert caption(scene) == text
    np.testing.assert_array_equal(draw(scene, 37, rng), image)


def test_examples_are_stable() -> None:
    """A change of the random stream would change the data set of every config."""
    image, text = example(11, 41, seed=3, fully_specified=False, held_out=False)
    assert (text, int(image.sum())) == ("a purple square left of a blue triangle", 181428)
