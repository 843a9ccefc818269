"""The checker: correct on rendered images, however stored; wrong images and false captions are detected."""

import dataclasses
import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw
from scipy import ndimage

from mmjax.scenes.check import Verdict, find, judge
from mmjax.scenes.draw import BACKGROUND, Placed, draw_things, example, place
from mmjax.scenes.grammar import COLORS, RELATIONS, SHAPES, Scene, caption, parse, random_scene
from mmjax.types import UserError

EXAMPLES = 101
Change = Callable[[np.ndarray, int], np.ndarray]


def plain(image: np.ndarray, index: int) -> np.ndarray:
    return image


def noisy(image: np.ndarray, index: int) -> np.ndarray:
    noise = np.random.default_rng(index).normal(0, 10, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def jpeg(quality: int) -> Change:
    def change(image: np.ndarray, index: int) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file))

    return change


def as_image(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def drawn(index: int, size: int, fully_specified: bool) -> tuple[np.ndarray, str]:
    return example(index, size, seed=17, fully_specified=fully_specified, held_out=index % 2 == 0)


@pytest.mark.parametrize("fully_specified", [True, False], ids=["fully_specified", "open"])
@pytest.mark.parametrize(
    ("size", "change"),
    [
        pytest.param(32, plain, id="32-plain"),
        pytest.param(32, noisy, id="32-noisy"),
        pytest.param(32, jpeg(90), id="32-jpeg90"),
        pytest.param(32, jpeg(75), id="32-jpeg75"),
        pytest.param(64, noisy, id="64-noisy"),
        pytest.param(64, jpeg(75), id="64-jpeg75"),
        pytest.param(101, plain, id="101-plain"),
        pytest.param(128, noisy, id="128-noisy"),
        pytest.param(128, jpeg(75), id="128-jpeg75"),
    ],
)
def test_rendered_images_are_correct(size: int, change: Change, fully_specified: bool) -> None:
    wrong = []
    for index in range(EXAMPLES):
        image, text = drawn(index, size, fully_specified)
        verdict = judge(change(image, index), text)
        if not verdict.all:
            wrong.append((index, text, verdict))
    assert len(wrong) <= EXAMPLES // 100, wrong


def falsified(scene: Scene, rng: np.random.Generator) -> tuple[str, Scene]:
    """The scene with one word changed, and which kind of word."""
    kinds = ["shape", "color", "relation", *(["size"] if scene.fully_specified else [])]
    while True:
        kind = kinds[rng.integers(len(kinds))]
        if kind == "relation":
            changed = dataclasses.replace(scene, relation=RELATIONS[rng.integers(4)])
        else:
            role = ("subject", "object")[rng.integers(2)]
            words = {"shape": SHAPES, "color": tuple(COLORS), "size": ("small", "large")}[kind]
            thing = dataclasses.replace(getattr(scene, role), **{kind: words[rng.integers(len(words))]})
            try:
                changed = dataclasses.replace(scene, **{role: thing})
            except ValueError:  # two things alike
                continue
        if changed != scene:
            return kind, changed


@pytest.mark.parametrize("change", [plain, noisy, jpeg(75)], ids=["plain", "noisy", "jpeg75"])
@pytest.mark.parametrize("fully_specified", [True, False], ids=["fully_specified", "open"])
def test_false_captions_are_false(fully_specified: bool, change: Change) -> None:
    rng = np.random.default_rng(23)
    for index in range(EXAMPLES):
        image, text = drawn(index, 32, fully_specified)
        kind, changed = falsified(parse(text), rng)
        verdict = judge(change(image, index), caption(changed))
        assert not getattr(verdict, kind), (index, text, changed)
        assert not verdict.all


def test_wrong_word_changes_its_own_verdict_only() -> None:
    image = draw_things([Placed("circle", "red", (0.25, 0.5), 0.14), Placed("square", "blue", (0.75, 0.5), 0.205)], 53)
    right = {"shape": True, "color": True, "size": True, "relation": True}
    for text, kind in [
        ("a small red circle left of a large blue square", None),
        ("a large blue square right of a small red circle", None),
        ("a red circle left of a blue square", None),
        ("a small red ring left of a large blue square", "shape"),
        ("a small red circle left of a large cyan square", "color"),
        ("a small red circle left of a small blue square", "size"),
        ("a small red circle right of a large blue square", "relation"),
        ("a small red circle above a large blue square", "relation"),
    ]:
        expected = right | ({kind: False} if kind else {})
        assert judge(image, text) == Verdict(**expected), text


def test_center_and_extent() -> None:
    things = [Placed("triangle", "yellow", (0.31, 0.26), 0.14), Placed("ring", "purple", (0.63, 0.71), 0.205)]
    for size in (32, 59, 97, 131):
        found = sorted(find(draw_things(things, size)), key=lambda thing: thing.extent)
        assert [(thing.shape, thing.color, thing.size) for thing in found] == [
            ("triangle", "yellow", "small"),
            ("ring", "purple", "large"),
        ]
        for seen, thing in zip(found, things, strict=True):
            assert seen.center == pytest.approx(thing.center, abs=0.006)
            assert seen.extent == pytest.approx(2 * thing.radius, rel=0.04)


def test_wide_images_by_pillow_on_gray() -> None:
    image = Image.new("RGB", (149 * 4, 83 * 4), (60, 60, 60))
    canvas = ImageDraw.Draw(image)
    canvas.ellipse((60, 90, 176, 206), fill=(220, 30, 50))
    canvas.polygon(((460, 150), (392, 268), (528, 268)), fill=(60, 220, 230))
    pixels = np.asarray(image.resize((149, 83), Image.Resampling.BOX))
    assert judge(pixels, "a red circle left of a large cyan triangle").all
    centers = sorted(thing.center for thing in find(pixels))
    assert np.array(centers) == pytest.approx(np.array([(118 / 596, 148 / 332), (460 / 596, 209 / 332)]), abs=0.01)


def rate(make: Callable[[Scene, np.random.Generator], np.ndarray], attribute: str, count: int = 53) -> float:
    """How often the attribute is called right, in images made of open and of fully_specified scenes."""
    right = 0
    for index in range(count):
        rng = np.random.default_rng((29, index))
        scene = random_scene(rng, fully_specified=index % 2 == 0, held_out=False)
        right += getattr(judge(as_image(make(scene, rng)), caption(scene)), attribute)
    return right / count


def test_slight_blur_is_accepted_but_a_blob_is_not() -> None:
    def blurred(sigma: float) -> Callable[[Scene, np.random.Generator], np.ndarray]:
        return lambda scene, rng: ndimage.gaussian_filter(
            draw_things(place(scene, rng), 32).astype(float), (sigma, sigma, 0)
        )

    assert rate(blurred(0.6), "all") == 1
    assert rate(blurred(2.0), "shape") == 0
    assert rate(blurred(3.0), "shape") == 0


def test_average_of_two_images_matches_neither() -> None:
    def averaged(scene: Scene, rng: np.random.Generator) -> np.ndarray:
        other = random_scene(rng, scene.fully_specified, held_out=False)
        first, second = (draw_things(place(s, rng), 32).astype(float) for s in (scene, other))
        return (first + second) / 2

    assert rate(averaged, "all") == 0


def changed_thing(scene: Scene, rng: np.random.Generator, attribute: str) -> tuple[np.ndarray, np.ndarray, Placed]:
    """The scene's image, the same with another shape or color of one thing, and that thing."""
    things = list(place(scene, rng))
    i = int(rng.integers(2))
    words = [word for word in (SHAPES if attribute == "shape" else COLORS) if word != getattr(things[i], attribute)]
    other = dataclasses.replace(things[i], **{attribute: words[rng.integers(len(words))]})
    before = draw_things(things, 32).astype(float)
    thing, things[i] = things[i], other
    return before, draw_things(things, 32).astype(float), thing


@pytest.mark.parametrize("attribute", ["shape", "color"])
def test_halfway_between_shapes_or_colors_matches_neither(attribute: str) -> None:
    def halfway(scene: Scene, rng: np.random.Generator) -> np.ndarray:
        before, after, _ = changed_thing(scene, rng, attribute)
        return (before + after) / 2

    assert rate(halfway, attribute) <= 0.02


def test_two_colored_thing_has_no_color() -> None:
    def split(scene: Scene, rng: np.random.Generator) -> np.ndarray:
        before, after, thing = changed_thing(scene, rng, "color")
        column = round(thing.center[0] * 32)
        return np.concatenate([before[:, :column], after[:, column:]], axis=1)

    assert rate(split, "color") <= 0.02


def test_spotted_thing_has_no_color() -> None:
    spot = [Placed("circle", "red", (0.5, 0.5), 0.205), Placed("circle", "blue", (0.5, 0.5), 0.09)]
    green = draw_things([Placed("square", "green", (0.5, 0.5), 0.205)], 47).astype(float)
    checkers = np.where((np.indices((47, 47)) // 4).sum(0) % 2, 0.55, 1.45)[..., None]
    for image in (draw_things(spot, 47), as_image(BACKGROUND + checkers * (green - BACKGROUND))):
        (thing,) = find(image)
        assert thing.color is None


def test_faded_color_is_none() -> None:
    for color in COLORS:
        image = draw_things([Placed("circle", color, (0.5, 0.5), 0.205)], 47).astype(float)
        for strength, name in [(0.55, None), (0.62, None), (0.9, color)]:
            (thing,) = find(as_image(BACKGROUND + strength * (image - BACKGROUND)))
            assert (thing.shape, thing.color) == ("circle", name)


def test_cut_off_thing_has_no_shape() -> None:
    def halved(scene: Scene, rng: np.random.Generator) -> np.ndarray:
        things = place(scene, rng)
        image = draw_things(things, 64).astype(float)
        thing = things[rng.integers(2)]
        x, y = (round(c * 64) for c in thing.center)
        reach = round(thing.radius * 64) + 1
        # Never the lower half: the upper half of a triangle is a triangle.
        rows, columns = [
            (slice(y - reach, y), slice(x - reach, x + reach)),
            (slice(y - reach, y + reach), slice(x - reach, x)),
            (slice(y - reach, y + reach), slice(x, x + reach)),
        ][rng.integers(3)]
        image[max(rows.start, 0) : rows.stop, max(columns.start, 0) : columns.stop] = BACKGROUND
        return image

    assert rate(halved, "shape") == 0


def test_other_shapes_are_none() -> None:
    masks = {
        "diamond": lambda x, y: abs(x) + abs(y) < 1.1,
        "triangle on its tip": lambda x, y: (abs(x) < (0.866 - y) * 0.577) & (y > -0.866),
        "ellipse": lambda x, y: (x / 1.1) ** 2 + (y / 0.75) ** 2 < 1,
        "rectangle": lambda x, y: (abs(x) < 1.05) & (abs(y) < 0.7),
        "open ring": lambda x, y: (abs(np.hypot(x, y) - 0.77) < 0.23) & ((x < 0) | (abs(y) > 0.4)),
        "square ring": lambda x, y: abs(np.maximum(abs(x), abs(y)) - 0.7) < 0.2,
        "cross": lambda x, y: (np.minimum(abs(x), abs(y)) < 0.35) & (np.maximum(abs(x), abs(y)) < 1),
        "half disc": lambda x, y: (np.hypot(x, y) < 1) & (y < 0),
    }
    fine = (np.arange(61 * 8) + 0.5) / (61 * 8)
    for name, mask in masks.items():
        for radius in (0.14, 0.2):
            inside = mask((fine[None, :] - 0.48) / radius, (fine[:, None] - 0.53) / radius)
            cover = inside.reshape(61, 8, 61, 8).mean((1, 3))[..., None]
            found = find(as_image(np.array(BACKGROUND) * (1 - cover) + np.array(COLORS["green"]) * cover))
            assert [thing.shape for thing in found] == [None], name


@pytest.mark.parametrize("strength", [0.3, 0.6, 1.0])
def test_pale_third_thing_makes_all_false(strength: float) -> None:
    pair = [Placed("circle", "red", (0.25, 0.6), 0.16), Placed("square", "blue", (0.75, 0.6), 0.16)]
    pale = draw_things([Placed("ring", "green", (0.5, 0.2), 0.14)], 32).astype(float) - BACKGROUND
    text = "a red circle left of a blue square"
    image = draw_things(pair, 32)
    assert judge(image, text).all
    assert judge(as_image(image + strength * pale), text) == Verdict(False, False, True, False)
    assert judge(as_image(image + strength * pale), "a small red circle left of a blue square").size is False


def test_single_thing_is_not_a_scene() -> None:
    image = draw_things([Placed("circle", "red", (0.25, 0.5), 0.14)], 32)
    assert judge(image, "a small red circle left of a small blue square") == Verdict(False, False, False, False)


def test_sizes_out_of_range_are_none() -> None:
    for radius, name in [(0.08, None), (0.14, "small"), (0.172, None), (0.205, "large"), (0.28, None)]:
        (thing,) = find(draw_things([Placed("circle", "cyan", (0.5, 0.5), radius)], 43))
        assert (thing.shape, thing.size) == ("circle", name)


@pytest.mark.parametrize("color", [(0, 0, 0), (22, 22, 24), (128, 128, 128), (255, 255, 255), *COLORS.values()])
def test_empty_image(color: tuple[int, int, int]) -> None:
    assert find(np.full((37, 41, 3), color, np.uint8)) == []


def test_other_colors_are_none() -> None:
    for color in [(255, 255, 255), (128, 128, 128), (250, 125, 30), (120, 70, 30)]:
        image = np.full((41, 41, 3), BACKGROUND, np.uint8)
        image[13:26, 13:26] = color
        (thing,) = find(image)
        assert thing.color is None, color


@given(hnp.arrays(np.uint8, (5, 7, 3)), st.integers(0, 60), st.integers(0, 2**32 - 1))
def test_any_image_is_judged(blocks: np.ndarray, noise: int, seed: int) -> None:
    values = np.kron(blocks, np.ones((7, 5, 1))) + np.random.default_rng(seed).normal(0, noise, (35, 35, 3))
    image = as_image(values)
    for thing in find(image):
        assert np.all(np.isfinite([*thing.center, thing.extent]))
    assert not judge(image, "a red circle left of a blue square").all


def test_too_small_image_is_refused() -> None:
    with pytest.raises(UserError, match="not 53 x 31"):
        judge(np.zeros((31, 53, 3), np.uint8), "a red circle left of a blue square")


def test_invalid_caption() -> None:
    with pytest.raises(ValueError, match="must be like"):
        judge(np.zeros((32, 32, 3), np.uint8), "two dogs on a bench")
