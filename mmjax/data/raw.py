"""What a packed data set is made from: encoded images in a fixed order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RawImage:
    """An image as it was published.

    Attributes:
        key: its id.
        name: of its file.
        captions: each with its id.
        content: reads the file.
    """

    key: int
    name: str
    captions: Sequence[tuple[int, str]]
    content: Callable[[], bytes]


@dataclass(frozen=True)
class Rejected:
    """An image that is left out, and why."""

    id: int
    file: str
    problem: str


@dataclass(frozen=True)
class RawSplit:
    """The images of a split.

    Attributes:
        size: how many there are.
        read: those from one position on to before another.
        captions: pairs of key and captions, all of them in order.
        left_out: images that are not among them.
        made_from: plain data that is equal only for the same images, as far as can be told without reading them.
    """

    size: int
    read: Callable[[int, int], Iterator[RawImage]]
    captions: Callable[[], Iterator[tuple[int, list[str]]]]
    left_out: Sequence[Rejected]
    made_from: dict[str, Any]
