"""Captions of scenes: two things, and the position of the first relative to the second.

"a small red circle left of a large blue square" names both sizes and determines the image; "a red circle left of a
blue square" leaves sizes and positions free.
"""

import dataclasses
import functools
import re

import numpy as np

SHAPES = ("circle", "square", "triangle", "ring")
COLORS = {
    "red": (225, 35, 35),
    "green": (30, 165, 50),
    "blue": (45, 85, 250),
    "yellow": (250, 225, 40),
    "purple": (190, 50, 220),
    "cyan": (50, 225, 235),
}
SIZES = ("small", "large")
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
RELATIONS = tuple(INVERSE)

_THING = rf"a (?:({'|'.join(SIZES)}) )?({'|'.join(COLORS)}) ({'|'.join(SHAPES)})"
_CAPTION = re.compile(rf"{_THING} ({'|'.join(RELATIONS)}) {_THING}")


@dataclasses.dataclass(frozen=True)
class Thing:
    """A shape of a color; `size` is None if the caption does not name it."""

    shape: str
    color: str
    size: str | None = None


@dataclasses.dataclass(frozen=True)
class Scene:
    """`subject` is `relation` (such as "left of") `object`. Raises ValueError if both are of one color and shape."""

    subject: Thing
    relation: str
    object: Thing

    def __post_init__(self) -> None:
        if (self.subject.shape, self.subject.color) == (self.object.shape, self.object.color):
            raise ValueError(f"scene: two things must differ in color or shape, not both be {_words(self.object)}")

    @property
    def fully_specified(self) -> bool:
        """Whether the caption determines the image."""
        return self.subject.size is not None and self.object.size is not None

    @property
    def held_out(self) -> bool:
        """Whether the scene is held out for evaluation, for any sizes: about 23% of scenes are.

        That is if the subject with its relation, or the object with the inverse relation (the same image described from
        the other side), is a held-out triple of shape, color and relation.
        """
        sides = ((self.subject, self.relation), (self.object, INVERSE[self.relation]))
        return any(triple_held_out(thing.shape, thing.color, RELATIONS.index(relation)) for thing, relation in sides)


def _words(thing: Thing) -> str:
    return " ".join(word for word in ("a", thing.size, thing.color, thing.shape) if word)


def caption(scene: Scene) -> str:
    """The caption of a scene; `parse` is the inverse."""
    return f"{_words(scene.subject)} {scene.relation} {_words(scene.object)}"


def parse(caption: str) -> Scene:
    """The scene of a caption; raises ValueError for a text that is not in the grammar, or of two equal things."""
    match = _CAPTION.fullmatch(caption)
    if not match:
        raise ValueError(f'caption {caption[:80]!r}: must be like "a small red circle left of a large blue square"')
    size, color, shape, relation, other_size, other_color, other_shape = match.groups()
    return Scene(Thing(shape, color, size), relation, Thing(other_shape, other_color, other_size))


def canonical(text: str) -> str:
    """Of the two captions of a scene, from either side, the first in the alphabet; other texts as they are."""
    try:
        scene = parse(text)
    except ValueError:
        return text
    return min(text, caption(Scene(scene.object, INVERSE[scene.relation], scene.subject)))


@functools.cache
def triple_held_out(shape: str, color: str, third: int) -> bool:
    """Whether a shape and a color with a third word, 0 to 3, are held out: 12 of the 96 triples are.

    They have each shape and third word three times, each color twice, and no pair of words more than once. So all pairs
    of words are trained on, but not these triples.
    """
    return (2 * SHAPES.index(shape) + tuple(COLORS).index(color) + 3 * third) % 8 == 0


def random_scene(rng: np.random.Generator, fully_specified: bool, held_out: bool) -> Scene:
    """Samples a scene uniformly from the held-out or the other ones, with sizes if `fully_specified`."""
    thing = (SHAPES, tuple(COLORS), SIZES)
    words = (*thing, RELATIONS, *thing)
    counts = [len(known) for known in words]
    while True:
        drawn = [known[i] for known, i in zip(words, rng.integers(counts).tolist(), strict=True)]
        subject, object = (
            Thing(shape, color, size if fully_specified else None) for shape, color, size in (drawn[:3], drawn[4:])
        )
        if (subject.shape, subject.color) == (object.shape, object.color):
            continue
        scene = Scene(subject, drawn[3], object)
        if scene.held_out == held_out:
            return scene
