"""Sources whose examples are read in any order: which one comes where follows from the seed and the position alone."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Int64

from mmjax.data import operations
from mmjax.data.captions import Captions
from mmjax.data.decoding import decoded
from mmjax.data.source import Reading, Rows, Source

PROVIDES = ("image", "text")


def indexed_source(name: str, captions: Captions, pictures: Callable[[int], bytes]) -> Source:
    """A source of encoded pictures that are fetched by their index.

    Args:
        name: as in the recipe, data.source.
        captions: of all examples; their keys, each another, are those of the examples.
        pictures: gives the encoded picture by its index; called from several threads, may fail.
    """
    size = len(captions)

    def order(reading: Reading, positions: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
        epochs, places = np.divmod(positions, size)
        if not reading.training:
            return places
        runs = [(int(epoch), places[epochs == epoch]) for epoch in np.unique(epochs)]
        return np.concatenate([operations.shuffled_index(run, epoch, size, reading.seed) for epoch, run in runs])

    def read(reading: Reading) -> Iterator[Rows]:
        def named() -> Iterator[Rows]:
            for positions in reading.positions():
                indices = order(reading, positions)
                keys = captions.keys[indices]
                yield {
                    "epoch": positions // size,
                    "key": keys,
                    "id": [str(key) for key in keys],
                    "captions": [captions[index] for index in indices.tolist()],
                    "picture": indices.tolist(),
                }

        return decoded(named(), pictures, reading)

    return Source(name, size, PROVIDES, lambda: iter(captions), read)
