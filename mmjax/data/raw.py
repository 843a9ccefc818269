"""Raw images, from which packed datasets are made."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RawImage:
    """An encoded image with its captions.

    Attributes:
        key: its id.
        name: file name.
        captions: pairs of id and text.
        content: reads the file.
    """

    key: int
    name: str
    captions: Sequence[tuple[int, str]]
    content: Callable[[], bytes]


@dataclass(frozen=True)
class Rejected:
    """An image that is left out, with the reason."""

    id: int
    file: str
    problem: str


@dataclass(frozen=True)
class RawSplit:
    """The raw images of a split.

    Attributes:
        size: number of images.
        read: (start, stop) -> the images of these positions.
        captions: starts a pass over pairs of key and captions.
        left_out: images that are left out.
        made_from: plain data that identifies the images without reading them.
    """

    size: int
    read: Callable[[int, int], Iterator[RawImage]]
    captions: Callable[[], Iterator[tuple[int, list[str]]]]
    left_out: Sequence[Rejected]
    made_from: dict[str, Any]
