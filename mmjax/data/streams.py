"""Order of examples in files without random access, in closed form, so that reading resumes at any position.

Position p belongs to stream p % STREAMS. In each epoch the files are shuffled, concatenated and cut into equal parts,
one per stream. A stream reads its part sequentially with a shuffle buffer. The order is a function of (seed, epoch),
independent of batch size and number of processes.

A global batch orders its positions by stream. If STREAMS is a multiple of the number of processes, and batch size and
STREAMS divide one another, each process reads only its own streams, except in the last batch of an epoch.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import Int64

from mmjax.data.source import ReadSpec

STREAMS = 8

FileSlice = tuple[int, int, int]  # index of a file, first record, number of records


def stream_positions(spec: ReadSpec, size: int) -> Iterator[Int64[np.ndarray, " rows"]]:
    """Positions that a process reads, in global batches ordered by epoch and stream."""
    for positions, shard in spec.shards():
        yield positions[np.lexsort((positions, positions % STREAMS, positions // size))][shard]


def stream_range(size: int, epoch: int, stream: int) -> range:
    """The positions of a stream in an epoch."""
    start = epoch * size
    return range(start + (stream - start) % STREAMS, start + size, STREAMS)


def stream_slices(lengths: Sequence[int], spec: ReadSpec, epoch: int, stream: int) -> list[FileSlice]:
    """The slices of files with these numbers of records that a stream reads in an epoch, in order."""
    size = sum(lengths)
    files = np.arange(len(lengths))
    if spec.training:
        files = np.random.default_rng((spec.seed, epoch)).permutation(files)
    start = sum(len(stream_range(size, epoch, before)) for before in range(stream))
    return slice_files(lengths, files.tolist(), start, start + len(stream_range(size, epoch, stream)))


def slice_files(lengths: Sequence[int], files: Iterable[int], start: int, stop: int) -> list[FileSlice]:
    """Slices of the records [start, stop) of the concatenated files."""
    slices, begin = [], 0
    for file in files:
        first, last = max(start - begin, 0), min(stop - begin, lengths[file])
        if first < last:
            slices.append((file, first, last - first))
        begin += lengths[file]
    return slices


def stream_order(length: int, buffer: int, spec: ReadSpec, epoch: int, stream: int) -> Int64[np.ndarray, " length"]:
    """The order of the records of a stream's part.

    In training records are sorted by their index plus a random delay below `buffer`: none moves by more than `buffer`,
    and fewer than `buffer` are held in memory.
    """
    order = np.arange(length)
    if not spec.training:
        return order
    # 2: a random stream independent of the order of the files.
    delay = np.random.default_rng((spec.seed, epoch, stream, 2)).random(length)
    return np.argsort(order + buffer * delay, kind="stable")
