"""Sources whose examples are read in any order: which one comes where follows from the seed and the position alone."""

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Int64

from mmjax.data.captions import Captions
from mmjax.data.decoding import Load, decode_examples
from mmjax.data.source import Examples, Features, ReadSpec, Source, epoch_order
from mmjax.data.transforms import Transform

# What the examples of some indices have beside what is loaded: `id`, `captions`, and other fields of Examples.
Columns = Callable[[list[int]], Examples]


def indexed_source(name: str, features: Features, captions: Captions, image: Callable[[int], bytes]) -> Source:
    """A source of encoded images with captions, that are fetched by their index.

    Args:
        name: as in the config, data.source.
        captions: of all examples; their keys, each another, are those of the examples.
        image: gives the encoded image by its index; called from several threads, may fail.
    """

    def columns(indices: list[int]) -> Examples:
        return {
            "id": list(map(str, captions.keys[indices].tolist())),
            "captions": [captions[index] for index in indices],
        }

    read = read_examples(captions.keys, lambda index: {"image": image(index)}, columns, features)
    return Source(name, len(captions), features, lambda: iter(captions), read)


def read_examples(
    keys: Int64[np.ndarray, " n"],
    load: Load,
    columns: Columns,
    features: Features,
    transforms: Sequence[Transform] = (),
) -> Callable[[ReadSpec], Iterator[Examples]]:
    """How a source reads examples that are fetched by their index.

    Args:
        keys: of all examples, each another.
        load: gives the images, masks, boxes and arrays of the example of an index; see mmjax.data.decoding.
        columns: without `captions` there are none.
        transforms: applied after crop and flip.
    """
    size = len(keys)

    def read(spec: ReadSpec) -> Iterator[Examples]:
        def batches() -> Iterator[Examples]:
            for epochs, indices in ordered(spec, size):
                no_captions: list[list[str]] = [[] for _ in indices]
                named = {"epoch": epochs, "key": keys[indices], "example": indices, "captions": no_captions}
                yield named | columns(indices)

        return decode_examples(batches(), load, spec, features, transforms)

    return read


def ordered(spec: ReadSpec, size: int) -> Iterator[tuple[Int64[np.ndarray, " b"], list[int]]]:
    """The epoch and the index of each position, as many at a time as the process reads of a global batch."""
    order = functools.lru_cache(maxsize=2)(functools.partial(epoch_order, spec, size))
    for positions in spec.positions():
        epochs, places = np.divmod(positions, size)
        yield epochs, [int(order(e)[p]) for e, p in zip(epochs.tolist(), places.tolist(), strict=True)]


def labels_of(names: Sequence[str], classes: Sequence[str]) -> Int64[np.ndarray, " n"]:
    """The class of each name, -1 where it is none of them."""
    numbers = {name: number for number, name in enumerate(classes)}
    return np.array([numbers.get(name, -1) for name in names], np.int64)
