"""Moving scenes: captions, held-out scenes, clips, and their checker."""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from mmjax.scenes import motion
from mmjax.scenes.draw import BACKGROUND, Placed, draw_things
from mmjax.scenes.grammar import COLORS, SHAPES
from mmjax.scenes.motion import (
    DIRECTIONS,
    ClipVerdict,
    Moving,
    caption,
    example,
    example_scene,
    judge_clip,
    parse,
    place,
    scenes,
)
from mmjax.types import UserError

ALL = [Moving(*words) for words in itertools.product(SHAPES, COLORS, ("left", "right", "up", "down"))]
EXAMPLES = 29


def test_caption_round_trip() -> None:
    assert caption(Moving("circle", "red", "left")) == "a red circle moving left"
    captions = [caption(scene) for scene in ALL]
    assert len(set(captions)) == 96
    assert [parse(text) for text in captions] == ALL


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red circle",
        "a red circle moving",
        "a red circle moving north",
        "a small red circle moving left",
        "a circle red moving left",
        "A red circle moving left",
        "a red circle moving left.",
        "a red circle moving left\n",
        "a red circle left of a blue square",
        "a red circle moving left " * 10_000,
    ],
)
def test_invalid_captions(text: str) -> None:
    with pytest.raises(ValueError, match='must be like "a red circle moving left"') as error:
        parse(text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 250


def test_held_out_triples_are_balanced_and_pairs_are_trained_on() -> None:
    held_out, trained = scenes(True), scenes(False)
    assert len(held_out) == 12 and sorted(map(caption, held_out + trained)) == sorted(map(caption, ALL))
    for word, times in (("shape", 3), ("color", 2), ("direction", 3)):
        assert set(Counter(getattr(scene, word) for scene in held_out).values()) == {times}
    for words in itertools.combinations(("shape", "color", "direction"), 2):
        pairs = [tuple(getattr(scene, word) for word in words) for scene in held_out]
        assert len(set(pairs)) == 12
        known = {"shape": SHAPES, "color": COLORS, "direction": DIRECTIONS}
        assert {tuple(getattr(scene, word) for word in words) for scene in trained} == set(
            itertools.product(*(known[word] for word in words))
        )


@given(st.sampled_from(ALL), st.integers(2, 17), st.integers(0, 2**32 - 1))
def test_motion_is_linear_and_inside_the_image(scene: Moving, frames: int, seed: int) -> None:
    path = place(scene, frames, np.random.default_rng(seed))
    assert len(path) == frames and {(thing.shape, thing.color) for thing in path} == {(scene.shape, scene.color)}
    (radius,) = {thing.radius for thing in path}
    centers = np.array([thing.center for thing in path])
    assert np.all(centers >= radius) and np.all(centers <= 1 - radius)
    steps = np.diff(centers, axis=0)
    sign = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[scene.direction]
    speed = np.abs(steps).sum(axis=1)
    np.testing.assert_allclose(steps, np.outer(speed, sign), atol=1e-12)
    np.testing.assert_allclose(speed, speed[0], atol=1e-12)
    assert speed.sum() >= 0.25


@pytest.mark.parametrize("direction", ["left", "right", "up", "down"])
def test_rendered_motion_follows_the_direction(direction: str) -> None:
    clip = motion.draw(Moving("ring", "green", direction), 61, 5, np.random.default_rng(2))
    assert clip.shape == (5, 61, 61, 3) and clip.dtype == np.uint8
    rows, columns = np.transpose([ndimage.center_of_mass(np.abs(f.astype(int) - BACKGROUND).sum(-1)) for f in clip])
    along, across = {
        "left": (-columns, rows),
        "right": (columns, rows),
        "up": (-rows, columns),
        "down": (rows, columns),
    }[direction]
    assert np.all(np.diff(along) > 61 * 0.25 / 4) and np.ptp(along) > 61 * 0.3 - 1 and np.ptp(across) < 0.2


def test_things_do_not_touch_the_border() -> None:
    for i in range(EXAMPLES):
        clip, _ = example(i, 32, 3, seed=5, held_out=False)
        difference = np.abs(clip.astype(int) - BACKGROUND)
        edges = [difference[:, 0], difference[:, -1], difference[:, :, 0], difference[:, :, -1]]
        assert max(edge.max() for edge in edges) < 0.2 * 255  # the soft corner of a triangle may tint it


def test_radius_position_and_speed_vary() -> None:
    rng = np.random.default_rng(5)
    paths = [place(Moving("square", "blue", "down"), 3, rng) for _ in range(200)]
    radii = np.array([path[0].radius for path in paths])
    starts = np.array([path[0].center for path in paths])
    travels = np.array([path[-1].center[1] - path[0].center[1] for path in paths])
    assert radii.min() < 0.14 and radii.max() > 0.2
    assert np.all(np.ptp(starts, axis=0) > 0.25) and np.ptp(travels) > 0.25


def test_examples_are_a_pure_function_of_their_arguments() -> None:
    clip, text = example(11, 37, 5, seed=3, held_out=False)
    again, same = example(11, 37, 5, seed=3, held_out=False)
    assert text == same
    np.testing.assert_array_equal(clip, again)
    for index, seed, held_out in [(12, 3, False), (11, 4, False), (11, 3, True)]:
        assert not np.array_equal(clip, example(index, 37, 5, seed, held_out)[0])


def test_more_frames_sample_the_same_path() -> None:
    few, text = example(11, 37, 3, seed=3, held_out=False)
    many, same = example(11, 37, 5, seed=3, held_out=False)
    assert text == same
    np.testing.assert_array_equal(few, many[::2])


def test_examples_are_stable() -> None:
    """A change of the random stream would change the data set of every config."""
    clip, text = example(11, 41, 7, seed=3, held_out=False)
    assert (text, int(clip.sum())) == ("a cyan square moving left", 1109888)


@pytest.mark.parametrize("held_out", [False, True])
def test_examples_cover_their_split(held_out: bool) -> None:
    told = Counter(example_scene(i, 1, held_out)[0] for i in range(1009))
    assert set(told) == set(scenes(held_out))
    clip, text = example(13, 32, 2, 1, held_out)
    scene, rng = example_scene(13, 1, held_out)
    assert caption(scene) == text
    np.testing.assert_array_equal(motion.draw(scene, 32, 2, rng), clip)


def test_too_small_frames_are_refused() -> None:
    with pytest.raises(UserError, match="from 32 pixels up, not 31"):
        example(0, 31, 2, seed=0, held_out=False)


# The checker.


def noisy(clip: np.ndarray, index: int) -> np.ndarray:
    noise = np.random.default_rng(index).normal(0, 10, clip.shape)
    return np.clip(np.rint(clip + noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("change", [lambda clip, index: clip, noisy], ids=["plain", "noisy"])
@pytest.mark.parametrize(("size", "frames"), [(32, 8), (67, 3)])
def test_true_and_false_captions_of_clips(
    size: int, frames: int, change: Callable[[np.ndarray, int], np.ndarray]
) -> None:
    rng = np.random.default_rng(3)
    for i in range(EXAMPLES):
        clip, text = example(i, size, frames, seed=7, held_out=i % 2 == 0)
        clip = change(clip, i)
        assert judge_clip(clip, text) == ClipVerdict(True, True, True, True), (i, text)
        color, shape, direction = (text.split()[place] for place in (1, 2, 4))
        kinds = ("color", color, COLORS), ("shape", shape, SHAPES), ("motion", direction, DIRECTIONS)
        kind, word, known = kinds[i % 3]
        others = [other for other in known if other != word]
        verdict = judge_clip(clip, text.replace(word, others[rng.integers(len(others))]))
        assert [name for name in vars(verdict) if not getattr(verdict, name)] == [kind] and not verdict.all


def clip_of(
    centers: Sequence[tuple[float, float]], kinds: Sequence[tuple[str, str]] = (("circle", "red"),)
) -> np.ndarray:
    """A clip of 41 pixels with the thing at these places, its (shape, color) taken in turn."""
    turns = itertools.cycle(kinds)
    return np.stack(
        [draw_things([Placed(*kind, center, 0.15)], 41) for center, kind in zip(centers, turns, strict=False)]
    )


LEFT = "a red circle moving left"
RIGHTWARDS = np.linspace(0.3, 0.7, 8)


def path(x: Sequence[float] | np.ndarray, y: float | np.ndarray = 0.5) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in zip(*np.broadcast_arrays(x, y), strict=True)]


@pytest.mark.parametrize(
    ("name", "x", "y", "moves"),
    [
        ("steadily", 1 - RIGHTWARDS, 0.5, True),
        ("the other way", RIGHTWARDS, 0.5, False),
        ("faster and faster", 0.7 - 0.4 * np.linspace(0, 1, 8) ** 2, 0.5, True),
        ("a little askew", 1 - RIGHTWARDS, 0.5 + 0.2 * (RIGHTWARDS - 0.5), True),
        ("as much down as left", 1 - RIGHTWARDS, RIGHTWARDS, False),
        ("not at all", np.full(8, 0.5), 0.5, False),
        ("a little", np.linspace(0.55, 0.45, 8), 0.5, False),
        ("shuffled", (1 - RIGHTWARDS)[[3, 0, 6, 1, 7, 4, 2, 5]], 0.5, False),
        ("by one jump", np.repeat([0.7, 0.3], 4), 0.5, False),
        ("to and fro", np.tile([0.6, 0.4], 4), 0.5, False),
        ("there and back", np.abs(np.linspace(-0.4, 0.4, 8)) + 0.3, 0.5, False),
        ("in zigzag", 1 - RIGHTWARDS, 0.5 + 0.1 * np.tile([1, -1], 4), False),
    ],
)
def test_motion(name: str, x: np.ndarray, y: float | np.ndarray, moves: bool) -> None:
    assert judge_clip(clip_of(path(x, y)), LEFT) == ClipVerdict(moves, True, True, True)


def test_color_and_shape_by_majority_and_consistency_by_all_frames() -> None:
    going = path(1 - RIGHTWARDS)
    mostly = [("circle", "red")] * 5 + [("circle", "blue")] * 3
    assert judge_clip(clip_of(going, mostly), LEFT) == ClipVerdict(True, True, True, False)
    half = [("circle", "red"), ("square", "red")]
    assert judge_clip(clip_of(going, half), LEFT) == ClipVerdict(True, True, False, False)
    other = [("square", "blue")]
    assert judge_clip(clip_of(going, other), LEFT) == ClipVerdict(True, False, False, True)


def test_frames_without_exactly_one_thing_do_not_count() -> None:
    clip = clip_of(path(1 - RIGHTWARDS))
    nothing = np.broadcast_to(np.array(BACKGROUND, np.uint8), clip.shape[1:])
    two = draw_things([Placed("circle", "red", (0.2, 0.2), 0.15), Placed("circle", "red", (0.7, 0.7), 0.15)], 41)
    for spoiled in (nothing, two):
        gap = clip.copy()
        gap[[2, 5, 6]] = spoiled
        assert judge_clip(gap, LEFT) == ClipVerdict(True, True, True, False)
        gap[7] = spoiled
        assert judge_clip(gap, LEFT) == ClipVerdict(False, False, False, False)


def test_unknown_color_or_shape_is_not_consistent() -> None:
    white = np.full((8, 41, 41, 3), BACKGROUND, np.uint8)
    blurred = clip_of(path(1 - RIGHTWARDS)).astype(float)
    for i in range(8):
        white[i, 15:26, 25 - 2 * i : 36 - 2 * i] = 255
    assert judge_clip(white, "a red square moving left") == ClipVerdict(True, False, True, False)
    blurred = np.rint(ndimage.gaussian_filter(blurred, (0, 2, 2, 0))).astype(np.uint8)
    assert judge_clip(blurred, LEFT) == ClipVerdict(True, True, False, False)


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_short_clips(frames: int) -> None:
    assert judge_clip(clip_of(path(np.linspace(0.7, 0.3, 3)[:frames])), LEFT).motion == (frames > 1)


@given(st.integers(1, 5), st.integers(0, 90), st.integers(0, 2**32 - 1))
def test_any_clip_is_judged(frames: int, noise: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.kron(rng.uniform(0, 255, (frames, 5, 7, 3)), np.ones((1, 7, 5, 1)))
    clip = np.clip(values + rng.normal(0, noise, values.shape), 0, 255).astype(np.uint8)
    assert not judge_clip(clip, LEFT).all


def test_invalid_clips_and_captions() -> None:
    with pytest.raises(UserError, match="not 53 x 31"):
        judge_clip(np.zeros((2, 31, 53, 3), np.uint8), LEFT)
    with pytest.raises(ValueError, match="must be like"):
        judge_clip(np.zeros((2, 32, 32, 3), np.uint8), "a red circle left of a blue square")
