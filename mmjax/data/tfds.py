"""TFDS's coco_captions, streamed from TFRecord files on a disk or in a bucket."""

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from mmjax.config import DataConfig
from mmjax.data import streams
from mmjax.data.decoding import decode_examples
from mmjax.data.raw import RawImage, RawSplit
from mmjax.data.source import Examples, ReadSpec, Source, SourceSpec, captioned_images
from mmjax.data.streams import FileSlice
from mmjax.data.tfds_layout import read_record
from mmjax.data.tfrecord import read_ahead, read_records, tensorflow
from mmjax.types import UserError

NAME = "coco_captions"
SPLITS = {"validation": "val"}  # TFDS's name

File = tuple[str, int, int]  # path, first record of the split, number of its records


def open_tfds(config: DataConfig, training: bool, seed: int) -> Source:
    """Opens a prepared coco_captions, in the order of mmjax/data/streams.py.

    data.root is TFDS's data_dir, a folder or a bucket (gs://...). Splits are TFDS's, such as "train[:10%]";
    "validation" is an alias of "val".

    Raises:
        UserError: where it is not prepared, or has no such split.
    """
    root, split = config.root, config.split(training)
    _, info = _split(root, split)
    files, size = _files(info), info.num_examples
    lengths, buffer = [take for _, _, take in files], max(config.shuffle_buffer // streams.STREAMS, 1)

    def read(spec: ReadSpec) -> Iterator[Examples]:
        opened: dict[int, tuple[int, _Stream]] = {}  # each stream with its current epoch
        pool = ThreadPoolExecutor(streams.STREAMS, "mmjax-stream")

        def locate(position: int) -> tuple[_Stream, int]:
            """The stream of a position, and its place in the stream."""
            epoch, number = position // size, position % streams.STREAMS
            place = (position - streams.first_position(size, epoch, number)) // streams.STREAMS
            if number not in opened or opened[number][0] != epoch:
                length = streams.stream_length(size, epoch, number)
                order = streams.stream_order(length, buffer, spec, epoch, number)
                slices = streams.stream_slices(lengths, spec, epoch, number)
                opened[number] = epoch, _Stream(pool, files, slices, order, place)
            return opened[number][1], place

        def batches() -> Iterator[dict[str, Any]]:
            for positions in streams.stream_positions(spec, size):
                places = [
                    locate(position) for position in positions.tolist()
                ]  # starts all streams before waiting for one
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
        rows = raw_tfds(root, split).captions()
        return (text for _, texts in rows for text in texts)

    return Source("coco_tfds", size, captioned_images(config), all_captions, read)


class _Stream:
    """The records of a stream in one epoch, taken in ascending order of their places.

    Args:
        pool: reads ahead.
        slices: file slices of the stream.
        order: record of the slices at each place.
        place: first place to take.
    """

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        files: Sequence[File],
        slices: Sequence[FileSlice],
        order: np.ndarray,
        place: int,
    ) -> None:
        self._places = np.argsort(order)
        self._records = read_ahead(pool, _read_slices(files, slices, int(order[place:].min())))
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


def _read_slices(files: Sequence[File], slices: Sequence[FileSlice], first: int) -> Iterator[tuple[int, bytes]]:
    """Yields (number, record) of the slices in order, from number `first` on."""
    begin = 0
    for file, start, count in slices:
        path, skip, _ = files[file]
        skipped = min(max(first - begin, 0), count)
        if skipped < count:
            records = read_records("coco_tfds", path, skip + start + skipped, count - skipped)
            yield from enumerate(records, begin + skipped)
        begin += count


def raw_tfds(root: str, split: str) -> RawSplit:
    """Opens the raw images of a prepared coco_captions, in its order.

    Raises:
        UserError: as open_tfds.
    """
    builder, info = _split(root, split)
    files = _files(info)

    def rows(start: int, stop: int) -> Iterator[dict[str, list[Any]]]:
        slices = streams.slice_files([take for _, _, take in files], range(len(files)), start, stop)
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


def _files(info: Any) -> list[File]:
    return [(str(file.filename), file.skip, file.take) for file in info.file_instructions]


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
    builder = _builder(root)
    try:
        info = builder.info.splits[SPLITS.get(split, split)]
    except (KeyError, ValueError) as error:
        known = ", ".join(builder.info.splits) or "none"
        raise UserError(f"{NAME} in {root}: has no split {split}; it has {known}") from error
    if not info.num_examples:
        raise UserError(f"{NAME} in {root}: split {split} is empty; {_hint(root)}")
    return builder, info


def _hint(root: str) -> str:
    return f"prepare it with `tfds build {NAME} --data_dir={root}`, or use data.source=coco_folder"


def _builder(root: str) -> Any:
    bucket_errors = [tensorflow().errors.OpError] if "://" in root else []
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError("data.source: coco_tfds needs TFDS: pip install tensorflow-datasets") from error
    try:
        builder = tfds.core.read_only_builder.builder_from_files(NAME, data_dir=root)
    except (tfds.core.DatasetNotFoundError, OSError, ValueError, *bucket_errors) as error:
        raise UserError(f"{root}: no prepared {NAME} there; {_hint(root)}") from error
    if builder.info.file_format.value != "tfrecord":
        raise UserError(f"{NAME} in {root}: its files are {builder.info.file_format.value}; must be tfrecord")
    return builder


SOURCE = SourceSpec(captioned_images, open_tfds, raw=raw_tfds)
