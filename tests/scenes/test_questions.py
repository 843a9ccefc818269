"""Questions about scenes: answers agree with the checker, and held-out scenes are never trained on."""

import itertools
import math
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from scipy import ndimage

from mmjax.scenes.check import Found, find, judge
from mmjax.scenes.draw import BACKGROUND, Placed, draw_things
from mmjax.scenes.grammar import COLORS, SHAPES, parse, triple_held_out
from mmjax.scenes.questions import Shown, example_scene, question, random_shown

SHAPE, COLOR = f"({'|'.join(SHAPES)})", f"({'|'.join(COLORS)})"
FORMS = {
    "color": f"what color is the {SHAPE}[?]",
    "shape": f"what shape is the {COLOR} thing[?]",
    "count": "how many objects[?]",
    "count of shape": f"how many {SHAPE}s are there[?]",
    "relation": f"is the {SHAPE} (left of|right of|above|below) the {SHAPE}[?]",
    "presence": f"is there a {COLOR} {SHAPE}[?]",
}


def kind_of(text: str) -> str:
    (kind,) = (kind for kind, form in FORMS.items() if re.fullmatch(form, text))
    return kind


def answered(text: str, seen: list[Found]) -> str:
    """The answer by what is seen; fails where there is not one right answer."""
    kind = kind_of(text)
    words = re.fullmatch(FORMS[kind], text).groups()  # type: ignore[union-attr]
    if kind == "color":
        (thing,) = (thing for thing in seen if thing.shape == words[0])
        return str(thing.color)
    if kind == "shape":
        (thing,) = (thing for thing in seen if thing.color == words[0])
        return str(thing.shape)
    if kind == "count":
        return str(len(seen))
    if kind == "count of shape":
        return str(sum(thing.shape == words[0] for thing in seen))
    if kind == "presence":
        return "yes" if any((thing.color, thing.shape) == words for thing in seen) else "no"
    (subject,), (object,) = ([thing for thing in seen if thing.shape == words[i]] for i in (0, 2))
    right, down = (a - b for a, b in zip(subject.center, object.center, strict=True))
    distance = {"left of": -right, "right of": right, "above": -down, "below": down}[words[1]]
    assert abs(distance) > 1.5 * min(abs(right), abs(down))  # plainly so or plainly not
    return "yes" if distance > 0 else "no"


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("fully_specified", [False, True])
def test_answers_agree_with_the_checker(fully_specified: bool, kept: bool) -> None:
    kinds: Counter[str] = Counter()
    for index in range(60):
        shown = example_scene(index, 5, fully_specified, kept)
        image = draw_things(shown.things, 64)
        seen = find(image)
        assert {(thing.shape, thing.color) for thing in seen} == {(thing.shape, thing.color) for thing in shown.things}
        assert len(seen) == len(shown.things) and len(shown.captions) == (len(seen) == 2)
        assert all(judge(image, caption).all for caption in shown.captions)
        for epoch in range(8):
            text, answer = question(index, epoch, 5, shown)
            assert answer == answered(text, seen), (text, shown)
            kinds[kind_of(text)] += 1
    assert set(kinds) == set(FORMS) and min(kinds.values()) > 480 / 15


def test_scenes_of_two_things_are_most_frequent() -> None:
    counts = Counter(len(example_scene(index, 1, True, False).things) for index in range(400))
    assert all(abs(counts[n] / 400 - share) < 0.09 for n, share in {1: 0.25, 2: 0.5, 3: 0.25}.items())


def triples(things: tuple[Placed, ...]) -> set[str]:
    """Scenes of two of them, in words, told either way round."""
    told = set()
    for first, second in itertools.permutations(things, 2):
        right, down = (a - b for a, b in zip(first.center, second.center, strict=True))
        across = abs(right) > abs(down)
        words = ("right of" if right > 0 else "left of") if across else ("below" if down > 0 else "above")
        told.add(f"a {first.color} {first.shape} {words} a {second.color} {second.shape}")
    return told


def test_held_out_scenes_are_not_trained_on() -> None:
    alone: dict[bool, set[tuple[str, str]]] = defaultdict(set)
    for kept, index in itertools.product((False, True), range(400)):
        shown = example_scene(index, 2, index % 2 == 0, kept)
        if len(shown.things) == 1:
            alone[kept] |= {(shown.things[0].shape, shown.things[0].color)}
        else:
            assert any(parse(text).held_out for text in triples(shown.things)) == kept
    assert alone[True] == {("circle", "red"), ("triangle", "purple"), ("ring", "blue")}
    assert alone[False] == set(itertools.product(SHAPES, COLORS)) - alone[True]
    assert all(triple_held_out(*words, 0) for words in alone[True])


def test_yes_and_no_are_balanced_and_presence_does_not_leak() -> None:
    given: dict[str, Counter[str]] = defaultdict(Counter)
    alone: dict[str, Counter[str]] = defaultdict(Counter)
    for index, epoch in itertools.product(range(300), range(7)):
        shown = example_scene(index, 7, False, True)
        text, answer = question(index, epoch, 7, shown)
        given[kind_of(text)][answer] += 1
        if kind_of(text) == "presence" and len(shown.things) == 1:
            alone[text][answer] += 1
    for kind in ("relation", "presence"):
        total = given[kind].total()
        assert set(given[kind]) == {"yes", "no"}
        assert abs(given[kind]["yes"] - total / 2) < 1.3 * math.sqrt(total)  # 2.6 standard deviations
    assert len(alone) == 3 and all(min(counts["yes"], counts["no"]) > 1 for counts in alone.values())
    assert {"0", "1", "2"} <= set(given["count of shape"]) and set(given["count"]) == {"1", "2", "3"}


def test_things_are_inside_and_apart() -> None:
    rng = np.random.default_rng(3)
    for size, count in itertools.product((32, 53), (1, 3)):
        for _ in range(20):
            shown = random_shown(count, rng, False, False)
            difference = np.abs(draw_things(shown.things, size).astype(int) - BACKGROUND).max(axis=-1)
            edge = np.concatenate([difference[[0, -1]].ravel(), difference[:, [0, -1]].ravel()])
            assert edge.max() < 0.2 * 255
            spots, found = ndimage.label(difference > 0, np.ones((3, 3)))
            assert found == count
            for first, second in itertools.combinations(range(1, count + 1), 2):
                assert ndimage.distance_transform_edt(spots != first)[spots == second].min() >= 2


def test_three_things_cover_the_image() -> None:
    rng = np.random.default_rng(4)
    centers = np.array([[t.center for t in random_shown(3, rng, False, False).things] for _ in range(100)])
    assert np.all(np.ptp(centers, axis=0) > 0.55)


def test_scene_and_question_are_pure_functions() -> None:
    shown = example_scene(11, 3, False, False)
    assert shown == example_scene(11, 3, False, False)
    others = [(12, 3, False, False), (11, 4, False, False), (11, 3, True, False), (11, 3, False, True)]
    assert shown not in [example_scene(*arguments) for arguments in others]
    assert question(11, 2, 3, shown) == question(11, 2, 3, shown)
    assert len({question(11, epoch, 3, shown) for epoch in range(30)}) > 5


def test_questions_have_one_correct_answer() -> None:
    """Of three rings, none is "the ring"; of three red things, none is "the red thing"."""
    rings = [Placed("ring", color, center, 0.1) for color, center in zip(COLORS, ((0.2, 0.2), (0.8, 0.2), (0.5, 0.8)))]  # noqa: B905
    shown = Shown(tuple(rings), [], False)
    asked = {kind_of(question(index, 0, 1, shown)[0]) for index in range(200)}
    assert asked == {"shape", "count", "count of shape", "presence"}
    reds = [Placed(shape, "red", ring.center, 0.1) for shape, ring in zip(SHAPES, rings)]  # noqa: B905
    asked = {kind_of(question(index, 0, 1, Shown(tuple(reds), [], False))[0]) for index in range(200)}
    assert asked == {"color", "count", "count of shape", "relation", "presence"}
