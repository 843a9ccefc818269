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

# What the examples of some indices have beside their images: `id`, `captions`, and other fields of Rows.
Columns = Callable[[list[int]], Rows]


def indexed_source(name: str, captions: Captions, image: Callable[[int], bytes]) -> Source:
    """A source of encoded images with captions, that are fetched by their index.

    Args:
        name: as in the config, data.source.
        captions: of all examples; their keys, each another, are those of the examples.
        image: gives the encoded image by its index; called from several threads, may fail.
    """

    def columns(indices: list[int]) -> Rows:
        return {
            "id": list(map(str, captions.keys[indices].tolist())),
            "captions": [captions[index] for index in indices],
        }

    read = read_images(captions.keys, image, columns)
    return Source(name, len(captions), PROVIDES, lambda: iter(captions), read)


def read_images(
    keys: Int64[np.ndarray, " n"], image: Callable[[int], bytes], columns: Columns
) -> Callable[[Reading], Iterator[Rows]]:
    """How a source reads encoded images that are fetched by their index.

    Args:
        keys: of all examples, each another.
        image: as in indexed_source.
    """
    size = len(keys)

    def read(reading: Reading) -> Iterator[Rows]:
        def batches() -> Iterator[dict[str, Any]]:
            for epochs, indices in ordered(reading, size):
                yield {"epoch": epochs, "key": keys[indices], "image": indices, **columns(indices)}

        return decoded(batches(), image, reading)

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
