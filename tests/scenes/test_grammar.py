"""Captions of scenes: round trip, and which scenes are held out."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmjax.scenes.grammar import COLORS, RELATIONS, SHAPES, SIZES, Scene, Thing, canonical, caption, parse, random_scene

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def all_scenes(sizes: tuple[str | None, ...] = (None,)) -> list[Scene]:
    things = [Thing(*words) for words in itertools.product(SHAPES, COLORS, sizes)]
    return [
        Scene(subject, relation, object)
        for subject, relation, object in itertools.product(things, RELATIONS, things)
        if (subject.shape, subject.color) != (object.shape, object.color)
    ]


def test_captions() -> None:
    subject, object = Thing("circle", "red", "small"), Thing("square", "blue", "large")
    assert caption(Scene(subject, "left of", object)) == "a small red circle left of a large blue square"
    scene = Scene(Thing("circle", "red"), "left of", Thing("square", "blue"))
    assert caption(scene) == "a red circle left of a blue square"
    assert not scene.fully_specified
    assert Scene(subject, "left of", object).fully_specified


def test_caption_round_trip() -> None:
    scenes = all_scenes((None, *SIZES))
    captions = [caption(scene) for scene in scenes]
    assert len(set(captions)) == len(scenes) == 72 * 4 * (72 - 3)
    assert [parse(text) for text in captions] == scenes
    # Each scene has two captions, from either side, and one of them is its canonical one.
    assert len({canonical(text) for text in captions}) == len(captions) // 2


def test_canonical_captions() -> None:
    assert canonical("a red circle left of a blue square") == "a blue square right of a red circle"
    assert canonical("a blue square right of a red circle") == "a blue square right of a red circle"
    assert canonical("a cat on a mat") == "a cat on a mat"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red circle",
        "a red circle left of a blue",
        "a red circle beside a blue square",
        "A red circle left of a blue square",
        "a red circle left of a blue square.",
        "a red circle left of a blue square\n",
        " a red circle left of a blue square",
        "a  red circle left of a blue square",
        "a red small circle left of a blue square",
        "an orange circle left of a blue square",
        "a red circle left of a small red circle",
        "a red circle left of a blue square " * 10_000,
    ],
)
def test_invalid_captions(text: str) -> None:
    with pytest.raises(ValueError, match="must") as error:
        parse(text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 250


@given(st.text())
def test_arbitrary_text_is_invalid(text: str) -> None:
    with pytest.raises(ValueError, match="caption"):
        parse(text)


def test_equal_things_are_refused() -> None:
    with pytest.raises(ValueError, match="must differ"):
        Scene(Thing("ring", "red", "small"), "above", Thing("ring", "red", "large"))


def test_held_out_counts() -> None:
    scenes = all_scenes()
    kept = [scene for scene in scenes if scene.held_out]
    assert (len(scenes), len(kept)) == (2208, 516)
    # A triple that training never shows is missing as a subject with its relation.
    shown = {(s.subject.shape, s.subject.color, s.relation) for s in scenes if not s.held_out}
    assert len(shown) == 96 - 12


def test_inverse_description_is_held_out_too() -> None:
    for scene in all_scenes():
        assert scene.held_out == Scene(scene.object, OPPOSITE[scene.relation], scene.subject).held_out


def test_held_out_is_independent_of_size() -> None:
    for scene in all_scenes(SIZES):
        plain = Scene(
            dataclasses.replace(scene.subject, size=None), scene.relation, dataclasses.replace(scene.object, size=None)
        )
        assert scene.held_out == plain.held_out


@pytest.mark.parametrize("role", ["subject", "object"])
def test_every_pair_of_words_is_trained_on(role: str) -> None:
    trained = [scene for scene in all_scenes() if not scene.held_out]
    words = [(getattr(s, role).shape, getattr(s, role).color, s.relation) for s in trained]
    assert {(shape, color) for shape, color, _ in words} == set(itertools.product(SHAPES, COLORS))
    assert {(shape, relation) for shape, _, relation in words} == set(itertools.product(SHAPES, RELATIONS))
    assert {(color, relation) for _, color, relation in words} == set(itertools.product(COLORS, RELATIONS))


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("fully_specified", [False, True])
def test_random_scenes_cover_their_split(fully_specified: bool, kept: bool) -> None:
    rng = np.random.default_rng(3)
    expected = {scene for scene in all_scenes() if scene.held_out == kept}
    seen = set()
    for _ in range(len(expected) * 2):
        scene = random_scene(rng, fully_specified=fully_specified, held_out=kept)
        assert scene.fully_specified == fully_specified
        assert (scene.subject.size is None) == (scene.object.size is None) == (not fully_specified)
        subject, object = (dataclasses.replace(thing, size=None) for thing in (scene.subject, scene.object))
        seen.add(Scene(subject, scene.relation, object))
    assert seen <= expected
    # Drawn evenly twice over, 1 - exp(-2) = 86% are met.
    assert 0.8 * len(expected) < len(seen) < 0.92 * len(expected)
