"""TFDS's coco_captions, streamed from TFRecord files on a disk or in a bucket."""

import contextlib
import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np

from mmjax.config import DataConfig
from mmjax.data import streams
from mmjax.data.decoding import decode_examples
from mmjax.data.source import Examples, RawImage, RawSplit, ReadSpec, Source, SourceSpec, captioned_images, digest_of
from mmjax.data.tfds_layout import read_record
from mmjax.types import UserError

NAME = "coco_captions"
SPLITS = {"validation": "val"}  # TFDS's name
AHEAD = 8  # records of a stream read at a time


def open_tfds(config: DataConfig, training: bool, seed: int) -> Source:
    """Opens a prepared coco_captions, in the order of mmjax/data/streams.py.

    data.root is TFDS's data_dir, a folder or a bucket (gs://...). Splits are TFDS's, such as "train[:10%]";
    "validation" is an alias of "val".

    Raises:
        UserError: where it is not prepared, or has no such split.
    """
    root, split = config.root, config.split(training)
    builder, info = _split(root, split)
    files, size = info.file_instructions, info.num_examples
    lengths, buffer = [file.take for file in files], max(config.shuffle_buffer // streams.STREAMS, 1)

    def read(spec: ReadSpec) -> Iterator[Examples]:
        opened: dict[int, tuple[int, _Stream]] = {}  # each stream with its current epoch
        pool = ThreadPoolExecutor(streams.STREAMS, "mmjax-stream")

        def locate(position: int) -> tuple[_Stream, int]:
            """The stream of a position, and its place in the stream."""
            epoch, number = position // size, position % streams.STREAMS
            positions = streams.stream_range(size, epoch, number)
            place = positions.index(position)
            if number not in opened or opened[number][0] != epoch:
                order = streams.stream_order(len(positions), buffer, spec, epoch, number)
                slices = streams.stream_slices(lengths, spec, epoch, number)
                records = read_ahead(pool, _read_slices(files, slices, int(order[place:].min())))
                opened[number] = epoch, _Stream(records, order, place)
            return opened[number][1], place

        def batches() -> Iterator[dict[str, Any]]:
            for positions in streams.stream_positions(spec, size):
                places = list(map(locate, positions.tolist()))  # starts all streams before waiting for one
                examples = [_example(stream.take(place)) for stream, place in places]
                keys = [example["image/id"][0] for example in examples]
                yield {
                    "epoch": positions // size,
                    "key": np.array(keys, np.int64),
                    "id": list(map(str, keys)),
                    "captions": list(map(_texts, examples)),
                    "example": [example["image"][0] for example in examples],
                }

        with pool:
            yield from decode_examples(batches(), lambda image: {"image": bytes(image)}, spec, captioned_images(config))

    def all_captions() -> Iterator[str]:
        return (text for _, texts in raw_tfds(root, split).captions() for text in texts)

    digest = digest_of(builder.info.full_name, list(info.shard_lengths), info.num_bytes)
    return Source("coco_tfds", size, captioned_images(config), all_captions, read, digest=digest)


class _Stream:
    """The records of a stream in one epoch, taken in ascending order of their places, from `place` on.

    `records` are pairs of a number and a record, from order[place:].min() on; `order` has the number at each place.
    """

    def __init__(self, records: Iterator[tuple[int, bytes]], order: np.ndarray, place: int) -> None:
        self._places = np.argsort(order)
        self._records = records
        self._buffer: dict[int, bytes] = {}  # records read ahead, by place
        self._next = place

    def take(self, place: int) -> bytes:
        for skipped in range(self._next, place):  # another process takes these
            self._buffer.pop(skipped, None)
        self._next = place + 1
        while place not in self._buffer:
            number, record = next(self._records)
            if (at := int(self._places[number])) >= place:
                self._buffer[at] = record
        return self._buffer.pop(place)


def _read_slices(files: Sequence[Any], slices: Sequence[streams.FileSlice], first: int) -> Iterator[tuple[int, bytes]]:
    """Yields (number, record) of the slices of TFDS's files in order, from number `first` on."""
    begin = 0
    for index, start, count in slices:
        file, skipped = files[index], min(max(first - begin, 0), count)
        if skipped < count:
            records = read_records(str(file.filename), file.skip + start + skipped, count - skipped)
            yield from enumerate(records, begin + skipped)
        begin += count


def read_records(path: str, skip: int, take: int) -> Iterator[bytes]:
    """Reads `take` records of a TFRecord file after the first `skip` with tf.data, and verifies their checksums.

    Raises:
        UserError: where there are fewer, or they cannot be read.
    """
    tf, number, reason = tensorflow(), skip, ""
    try:
        for record in tf.data.TFRecordDataset(path).skip(skip).take(take).as_numpy_iterator():
            yield record
            number += 1
    except tf.errors.OpError as error:
        reason = f" ({' '.join(str(error).split())})"
    if number < skip + take:
        before = "" if number > skip else " or before"  # skipped records are not counted
        raise UserError(
            f"data.source coco_tfds: cannot be read: {path}: ends or is damaged in record {number:,}{before}{reason}; "
            "is the data set complete?"
        )


def read_ahead(pool: ThreadPoolExecutor, records: Iterator[Any]) -> Iterator[Any]:
    """Iterates over records that the pool reads AHEAD at a time, starting immediately."""

    def read() -> list[Any]:
        return list(itertools.islice(records, AHEAD))

    def results() -> Iterator[Any]:
        chunk = first
        while part := chunk.result():
            chunk = pool.submit(read)
            yield from part

    first = pool.submit(read)
    return results()


@functools.cache
def tensorflow() -> ModuleType:
    """Imports TensorFlow without accelerators, which JAX uses."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # avoids a log line
    import tensorflow

    for kind in ("GPU", "TPU"):
        with contextlib.suppress(RuntimeError, ValueError):  # already initialized
            tensorflow.config.set_visible_devices([], kind)
    return tensorflow


def raw_tfds(root: str, split: str) -> RawSplit:
    """Opens the raw images of a prepared coco_captions, in its order.

    Raises:
        UserError: as open_tfds.
    """
    builder, info = _split(root, split)
    files = info.file_instructions

    def rows(start: int, stop: int) -> Iterator[dict[str, list[Any]]]:
        slices = streams.slice_files([file.take for file in files], range(len(files)), start, stop)
        with ThreadPoolExecutor(1) as pool:
            for _, record in read_ahead(pool, _read_slices(files, slices, 0)):
                yield _example(record)

    def read(start: int, stop: int) -> Iterator[RawImage]:
        for row in rows(start, stop):
            name, image = row["image/filename"][0].decode("utf-8", "replace"), row["image"][0]
            captions = list(zip(row["captions/id"], _texts(row), strict=True))
            yield RawImage(row["image/id"][0], name, captions, functools.partial(bytes, image))

    def all_captions() -> Iterator[tuple[int, list[str]]]:
        return ((row["image/id"][0], _texts(row)) for row in rows(0, info.num_examples))

    made_from = {"source": "coco_tfds", "dataset": builder.info.full_name, "shards": list(info.shard_lengths)}
    return RawSplit(info.num_examples, read, all_captions, [], {**made_from, "bytes": info.num_bytes})


def _example(record: bytes) -> dict[str, list[Any]]:
    try:
        fields = read_record(record)
        fields["image"][0], fields["image/id"][0], fields["captions/text"]
    except (ValueError, LookupError) as error:
        raise UserError(f"data.source coco_tfds: a record is not an example of {NAME}") from error
    return fields


def _texts(row: dict[str, list[Any]]) -> list[str]:
    return [text.decode("utf-8", "replace") for text in row["captions/text"]]


def _split(root: str, split: str) -> tuple[Any, Any]:
    """TFDS's builder, and the SplitInfo of a split."""
    hint = f"prepare it with `tfds build {NAME} --data_dir={root}`, or use data.source=coco_folder"
    bucket_errors = [tensorflow().errors.OpError] if "://" in root else []
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError("data.source: coco_tfds needs TFDS: pip install tensorflow-datasets") from error
    try:
        builder = tfds.core.read_only_builder.builder_from_files(NAME, data_dir=root)
    except (tfds.core.DatasetNotFoundError, OSError, ValueError, *bucket_errors) as error:
        raise UserError(f"{root}: no prepared {NAME} there; {hint}") from error
    if builder.info.file_format.value != "tfrecord":
        raise UserError(f"{NAME} in {root}: its files are {builder.info.file_format.value}; must be tfrecord")
    try:
        info = builder.info.splits[SPLITS.get(split, split)]
    except (KeyError, ValueError) as error:
        known = ", ".join(builder.info.splits) or "none"
        raise UserError(f"{NAME} in {root}: has no split {split}; it has {known}") from error
    if not info.num_examples:
        raise UserError(f"{NAME} in {root}: split {split} is empty; {hint}")
    return builder, info


SOURCE = SourceSpec(captioned_images, open_tfds, raw=raw_tfds)
