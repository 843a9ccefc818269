"""Sources whose examples are read in any order: which one comes where follows from the seed and the position alone."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

from mmjax.data.captions import Captions
from mmjax.data.decoding import decoded
from mmjax.data.source import Reading, Rows, Source, epoch_order

PROVIDES = ("image", "text")

# What the examples of some indices have beside their pictures: `id`, `captions`, and other fields of Rows.
Columns = Callable[[list[int]], Rows]


def indexed_source(name: str, captions: Captions, picture: Callable[[int], bytes]) -> Source:
    """A source of encoded pictures with captions, that are fetched by their index.

    Args:
        name: as in the recipe, data.source.
        captions: of all examples; their keys, each another, are those of the examples.
        picture: gives the encoded picture by its index; called from several threads, may fail.
    """

    def columns(indices: list[int]) -> Rows:
        return {
            "id": list(map(str, captions.keys[indices].tolist())),
            "captions": [captions[index] for index in indices],
        }

    read = read_pictures(captions.keys, picture, columns)
    return Source(name, len(captions), PROVIDES, lambda: iter(captions), read)


def read_pictures(
    keys: Int64[np.ndarray, " n"], picture: Callable[[int], bytes], columns: Columns
) -> Callable[[Reading], Iterator[Rows]]:
    """How a source reads encoded pictures that are fetched by their index.

    Args:
        keys: of all examples, each another.
        picture: as in indexed_source.
    """
    size = len(keys)

    def read(reading: Reading) -> Iterator[Rows]:
        def batches() -> Iterator[dict[str, Any]]:
            for epochs, indices in ordered(reading, size):
                yield {"epoch": epochs, "key": keys[indices], "picture": indices, **columns(indices)}

        return decoded(batches(), picture, reading)

    return read


def ordered(reading: Reading, size: int) -> Iterator[tuple[Int64[np.ndarray, " b"], list[int]]]:
    """The epoch and the index of each position, as many at a time as the process reads of a global batch."""
    order = functools.lru_cache(maxsize=2)(functools.partial(epoch_order, reading, size))
    for positions in reading.positions():
        epochs, places = np.divmod(positions, size)
        yield epochs, [int(order(e)[p]) for e, p in zip(epochs.tolist(), places.tolist(), strict=True)]


def labels_of(names: Sequence[str], classes: Sequence[str]) -> Int64[np.ndarray, " n"]:
    """The class of each name, -1 where it is none of them."""
    numbers = {name: number for number, name in enumerate(classes)}
    return np.array([numbers.get(name, -1) for name in names], np.int64)
