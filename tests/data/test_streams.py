"""The order of streams: every record once an epoch, near where it lies, whatever the batches and the processes."""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmjax.data import streams
from mmjax.data.source import ProcessShard, ReadSpec, process_shards

READING = ReadSpec(
    shards=lambda: process_shards(0, None, 8, 0, 8), training=True, seed=5, size=31, resize=37, flip=True
)
LENGTHS = st.lists(st.integers(0, 23), min_size=1, max_size=11).filter(any)


def read_spec(**fields: object) -> ReadSpec:
    return dataclasses.replace(READING, **fields)


@given(LENGTHS, st.integers(0, 5), st.booleans())
def test_the_streams_of_an_epoch_read_every_record_once(lengths: list[int], epoch: int, training: bool) -> None:
    size = sum(lengths)
    seen = []
    for stream in range(streams.STREAMS):
        positions = [p for p in range(epoch * size, (epoch + 1) * size) if p % streams.STREAMS == stream]
        assert list(streams.stream_range(size, epoch, stream)) == positions
        parts = streams.stream_slices(lengths, read_spec(training=training), epoch, stream)
        records = [(file, record) for file, first, count in parts for record in range(first, first + count)]
        assert len(records) == len(positions)
        seen += records
    everything = [(file, record) for file, length in enumerate(lengths) for record in range(length)]
    assert sorted(seen) == everything and (training or seen == everything)


def test_files_come_in_another_order_each_epoch_and_seed() -> None:
    def order(epoch: int, seed: int = 5) -> tuple[int, ...]:
        parts = [streams.stream_slices([8] * 16, read_spec(seed=seed), epoch, stream) for stream in range(8)]
        return tuple(file for part in parts for file, _, _ in part)

    assert len({order(0), order(1), order(2), order(0, 6)}) == 4 and order(1) == order(1)


@pytest.mark.parametrize(("length", "buffer"), [(0, 7), (1, 7), (211, 1), (211, 13), (211, 1000)])
def test_a_record_comes_near_where_it_lies(length: int, buffer: int) -> None:
    def order(epoch: int, stream: int, seed: int = 5) -> np.ndarray:
        return streams.stream_order(length, buffer, read_spec(seed=seed), epoch, stream)

    assert sorted(order(0, 0)) == list(range(length))
    assert length == 0 or np.abs(order(0, 0) - np.arange(length)).max() < buffer
    read = np.maximum.accumulate(order(0, 0)) + 1  # so many are read by then, and one more is given at each place
    assert (read - np.arange(1, length + 1) < buffer).all()
    different = {tuple(order(*which)) for which in [(0, 0), (1, 0), (0, 1), (0, 0, 6)]}
    assert len(different) == (4 if min(length, buffer) > 1 else 1)
    evaluation = streams.stream_order(length, buffer, read_spec(training=False), 0, 0)
    assert evaluation.tolist() == list(range(length))


def test_mixing_reaches_as_far_as_the_buffer() -> None:
    moved = np.abs(streams.stream_order(2000, 100, READING, 0, 0) - np.arange(2000))
    # Of two uniform numbers below 100, the mean distance is 33; a place moves by what its neighbors drew less.
    assert 20 < moved.mean() < 40


@given(st.integers(1, 25), st.integers(1, 4), st.integers(0, 9), st.integers(1, 99), st.integers(1, 50))
def test_processes_hold_the_positions_of_a_global_batch(
    rows: int, processes: int, step: int, length: int, size: int
) -> None:
    batch = rows * processes
    start, stop = step * batch, step * batch + length

    def positions(first: int, rows: int) -> Iterator[np.ndarray]:
        return streams.stream_positions(read_spec(shards=lambda: process_shards(start, stop, batch, first, rows)), size)

    expected = [np.arange(begin, min(begin + batch, stop)) for begin in range(start, stop, batch)]
    found = list(positions(0, batch))
    parts = [positions(p * rows, rows) for p in range(processes)]
    joined = [np.concatenate([x for x in row if x is not None]) for row in itertools.zip_longest(*parts)]
    assert len(expected) == len(found) == len(joined)
    for one, two, three in zip(expected, found, joined, strict=True):
        assert np.array_equal(one, np.sort(two)) and np.array_equal(two, three)
        assert (np.diff(two // size) >= 0).all()  # what reads epoch after epoch finds them so


def streams_of(shards: Iterator[ProcessShard]) -> set[int]:
    """The streams of the first positions of a process, within an epoch."""
    positions = itertools.islice(streams.stream_positions(read_spec(shards=lambda: shards), 10**6), 9)
    return set((np.concatenate(list(positions)) % streams.STREAMS).tolist())


@pytest.mark.parametrize("batch", [8, 16, 24, 104])
@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_each_process_has_streams_of_its_own(batch: int, processes: int) -> None:
    rows = batch // processes
    first = [streams_of(process_shards(3 * batch, None, batch, p * rows, rows)) for p in range(processes)]
    assert all(not a & b for a, b in itertools.combinations(first, 2))
    assert set().union(*first) == set(range(streams.STREAMS))


def test_a_small_batch_also_leaves_each_process_its_streams() -> None:
    seen = [streams_of(process_shards(0, None, 4, p, 1)) for p in range(4)]
    assert seen == [{0, 4}, {1, 5}, {2, 6}, {3, 7}]
