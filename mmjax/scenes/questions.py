"""Scenes of one to three things, and questions about them with one correct, one-word answer.

"what color is the circle?", "what shape is the red thing?", "how many objects?", "how many circles are there?",
"is the square left of the ring?", "is there a blue ring?".
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float

from mmjax.scenes.draw import BORDER, GAP, NEAR_RADIUS, SLANT, Placed, place, relation
from mmjax.scenes.grammar import COLORS, INVERSE, SHAPES, Scene, Thing, caption, random_scene, triple_held_out

COUNTS = (1, 2, 2, 3)  # numbers of things, sampled uniformly
TRIES = 64  # placements of three things sampled at a time; one in thirty is valid
_SCENE, _QUESTION = 3, 4  # separate random streams


@dataclasses.dataclass(frozen=True)
class Shown:
    """The content of an image.

    Attributes:
        things: within the image and not touching; of any two, their relation is unambiguous.
        captions: one of two things, in the grammar of mmjax.scenes.grammar; none of one or three.
        held_out: for evaluation.
    """

    things: tuple[Placed, ...]
    captions: list[str]
    held_out: bool


def example_scene(index: int, seed: int, fully_specified: bool, held_out: bool) -> Shown:
    """The index-th scene of one to three things: a pure function of the arguments, all of them non-negative.

    A scene of two things is one of `random_scene`. Held out are single things of 3 of the 24 pairs of shape and color,
    and three things any two of which are held out as a scene of two.
    """
    rng = np.random.default_rng((seed, index, fully_specified, held_out, _SCENE))
    return random_shown(COUNTS[rng.integers(len(COUNTS))], rng, fully_specified, held_out)


def random_shown(count: int, rng: np.random.Generator, fully_specified: bool, held_out: bool) -> Shown:
    """Samples a scene of this many things, 1 to 3, from the held-out or the other ones."""
    if count == 2:
        scene = random_scene(rng, fully_specified, held_out)
        return Shown(place(scene, rng), [caption(scene)], held_out)
    while True:
        kinds = rng.choice(len(SHAPES) * len(COLORS), count, replace=False).tolist()
        words = [(SHAPES[kind // len(COLORS)], tuple(COLORS)[kind % len(COLORS)]) for kind in kinds]
        # A single thing has any size; three are small, to fit in the image.
        radii = rng.uniform(*NEAR_RADIUS[None if count == 1 else "small"], count)
        centers = _places(radii, rng).tolist()
        things = tuple(
            Placed(shape, color, (x, y), radius)
            for (shape, color), (x, y), radius in zip(words, centers, radii.tolist(), strict=True)
        )
        if _kept(things) == held_out:
            return Shown(things, [], held_out)


def _kept(things: Sequence[Placed]) -> bool:
    """Whether one or three things are held out."""
    if len(things) == 1:
        return triple_held_out(things[0].shape, things[0].color, 0)  # 3 of 24, no two of one shape or color
    return any(
        Scene(Thing(a.shape, a.color), relation(a.center, b.center), Thing(b.shape, b.color)).held_out
        for a, b in combinations(things, 2)
    )


def _places(radii: Float[np.ndarray, " n"], rng: np.random.Generator) -> Float[np.ndarray, "n 2"]:
    """Centers (x, y) such that any two things are apart along one axis, and at most SLANT of that across it."""
    first, second = np.triu_indices(len(radii), 1)
    apart = radii[first] + radii[second] + GAP
    room = 1 - 2 * (BORDER + radii)
    while True:
        centers = (BORDER + radii + room * rng.random((TRIES, 2, len(radii)))).swapaxes(1, 2)
        distances = np.sort(np.abs(centers[:, first] - centers[:, second]), axis=-1)
        across, along = distances[..., 0], distances[..., 1]
        fitting = np.flatnonzero(np.all((along >= apart) & (across <= SLANT * along), axis=-1))
        if len(fitting):
            return centers[fitting[0]]


def question(index: int, epoch: int, seed: int, shown: Shown) -> tuple[str, str]:
    """A question about the index-th scene and its answer: a pure function of the arguments, all of them non-negative.

    The kinds of questions with one correct answer are equally likely, and so are the answers yes and no.
    """
    rng = np.random.default_rng((seed, index, epoch, shown.held_out, _QUESTION))
    asked = (_KINDS[kind](shown, rng) for kind in rng.permutation(len(_KINDS)))
    return next(pair for pair in asked if pair)


def _lone(things: Sequence[Placed], attribute: str) -> list[Placed]:
    """The things that are unique in their shape or color."""
    counts = Counter(getattr(thing, attribute) for thing in things)
    return [thing for thing in things if counts[getattr(thing, attribute)] == 1]


def _attribute(shown: Shown, rng: np.random.Generator, known: str, asked: str, question: str) -> tuple[str, str] | None:
    """Asks for an attribute of a thing that is unique in another one."""
    if not (lone := _lone(shown.things, known)):
        return None
    thing = lone[rng.integers(len(lone))]
    return question.format(getattr(thing, known)), getattr(thing, asked)


def _count_of_shape(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    there = [thing.shape for thing in shown.things]
    shapes = there if rng.random() < 0.5 else SHAPES
    shape = shapes[rng.integers(len(shapes))]
    return f"how many {shape}s are there?", str(there.count(shape))


def _relation(shown: Shown, rng: np.random.Generator) -> tuple[str, str] | None:
    if len(lone := _lone(shown.things, "shape")) < 2:
        return None
    subject, object = (lone[i] for i in rng.permutation(len(lone))[:2])
    words, yes = relation(subject.center, object.center), rng.random() < 0.5
    return f"is the {subject.shape} {words if yes else INVERSE[words]} the {object.shape}?", "yes" if yes else "no"


def _presence(shown: Shown, rng: np.random.Generator) -> tuple[str, str]:
    there = {(thing.shape, thing.color) for thing in shown.things}
    yes, other = rng.random() < 0.5, shown
    while True:
        thing = other.things[rng.integers(len(other.things))]
        if ((thing.shape, thing.color) in there) == yes:
            return f"is there a {thing.color} {thing.shape}?", "yes" if yes else "no"
        # From another scene of the same split, so that the question does not give away the answer: held-out scenes have
        # some things more often.
        other = random_shown(len(shown.things), rng, False, shown.held_out)


_KINDS: tuple[Callable[[Shown, np.random.Generator], tuple[str, str] | None], ...] = (
    functools.partial(_attribute, known="shape", asked="color", question="what color is the {}?"),
    functools.partial(_attribute, known="color", asked="shape", question="what shape is the {} thing?"),
    lambda shown, rng: ("how many objects?", str(len(shown.things))),
    _count_of_shape,
    _relation,
    _presence,
)
