"""Sources whose examples are read in any order: which one comes where follows from the seed and the position alone."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mmjax.data.captions import Captions
from mmjax.data.decoding import decoded
from mmjax.data.source import Reading, Rows, Source, epoch_order

PROVIDES = ("image", "text")


def indexed_source(name: str, captions: Captions, picture: Callable[[int], bytes]) -> Source:
    """A source of encoded pictures that are fetched by their index.

    Args:
        name: as in the recipe, data.source.
        captions: of all examples; their keys, each another, are those of the examples.
        picture: gives the encoded picture by its index; called from several threads, may fail.
    """
    size = len(captions)

    def read(reading: Reading) -> Iterator[Rows]:
        order = functools.lru_cache(maxsize=2)(functools.partial(epoch_order, reading, size))

        def batches() -> Iterator[dict[str, Any]]:
            for positions in reading.positions():
                epochs, places = np.divmod(positions, size)
                indices = [int(order(epoch)[p]) for epoch, p in zip(epochs.tolist(), places.tolist(), strict=True)]
                keys = captions.keys[indices]
                texts = [captions[index] for index in indices]
                ids = list(map(str, keys.tolist()))
                yield {"epoch": epochs, "key": keys, "id": ids, "captions": texts, "picture": indices}

        return decoded(batches(), picture, reading)

    return Source(name, size, PROVIDES, lambda: iter(captions), read)
