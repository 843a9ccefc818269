"""Sources whose examples are read in any order: which one comes where follows from the seed and the position alone."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mmjax.data import operations
from mmjax.data.captions import Captions
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
    by_key = np.argsort(captions.keys)

    def read(reading: Reading) -> Iterator[Rows]:
        tf = operations.tensorflow()
        keys = tf.constant(captions.keys)

        @operations.as_written
        def record(position: Any) -> dict[str, Any]:
            epoch, index = position // size, position % size
            if reading.training:
                index = operations.shuffled_index(index, epoch, size, reading.seed)
            key = keys[index]
            # The captions stay out of TensorFlow, which would keep each as a string of its own.
            none = tf.constant([], tf.string)
            return {"epoch": epoch, "key": key, "id": tf.strings.as_string(key), "captions": none, "picture": index}

        records = operations.my_positions(reading).map(record)
        for rows in operations.read_records(records, lambda index: pictures(int(index)), reading, name):
            indices = by_key[np.searchsorted(captions.keys, rows["key"], sorter=by_key)]
            yield rows | {"captions": [captions[int(index)] for index in indices]}

    return Source(name, size, PROVIDES, lambda: iter(captions), read)
