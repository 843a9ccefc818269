"""Sources with random access to their examples."""

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Int64

from mmjax.data.captions import Captions
from mmjax.data.decoding import Load, decode_examples
from mmjax.data.source import Examples, Features, ReadSpec, Source, digest_of
from mmjax.data.transforms import Transform

# (indices) -> `id`, `captions` and other fields of Examples that are not loaded.
Columns = Callable[[list[int]], Examples]


def indexed_source(name: str, features: Features, captions: Captions, image: Callable[[int], bytes]) -> Source:
    """A source of captioned encoded images by index.

    Args:
        name: data.source of the config.
        captions: of all examples, with unique keys.
        image: (index) -> the encoded image; called from several threads, may raise.
    """

    def columns(indices: list[int]) -> Examples:
        ids = list(map(str, captions.keys[indices].tolist()))
        return {"id": ids, "captions": [captions[index] for index in indices]}

    read = read_examples(captions.keys, lambda index: {"image": image(index)}, columns, features)
    digest = digest_of(*vars(captions).values())
    return Source(name, len(captions), features, lambda: iter(captions), read, digest=digest)


def read_examples(
    keys: Int64[np.ndarray, " n"],
    load: Load,
    columns: Columns,
    features: Features,
    transforms: Sequence[Transform] = (),
) -> Callable[[ReadSpec], Iterator[Examples]]:
    """The `read` of a source with access by index.

    Args:
        keys: unique keys of all examples.
        load: (index) -> images, masks, boxes and arrays; see mmjax.data.decoding.
        columns: (indices) -> other fields; without `captions`, examples have none.
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
    """Yields the epochs and indices of a process's positions in each global batch; each epoch shuffled in training."""

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> Int64[np.ndarray, " size"]:
        return np.random.default_rng((spec.seed, epoch)).permutation(size) if spec.training else np.arange(size)

    for positions in spec.positions():
        epochs, places = np.divmod(positions, size)
        yield epochs, [int(order(e)[p]) for e, p in zip(epochs.tolist(), places.tolist(), strict=True)]


def labels_of(names: Sequence[str], classes: Sequence[str]) -> Int64[np.ndarray, " n"]:
    """The class index of each name, or -1."""
    numbers = {name: number for number, name in enumerate(classes)}
    return np.array([numbers.get(name, -1) for name in names], np.int64)
