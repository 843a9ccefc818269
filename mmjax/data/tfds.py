"""TFDS coco_captions, as it was prepared on a disk or in a bucket."""

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from mmjax.config import DataConfig
from mmjax.data import streams
from mmjax.data.decoding import decode_examples
from mmjax.data.raw import Original, Originals
from mmjax.data.source import Examples, ReadSpec, Source, SourceSpec, captioned_images
from mmjax.data.streams import Part
from mmjax.data.tfds_layout import read_record
from mmjax.data.tfrecord import read_ahead, read_records, tensorflow
from mmjax.types import UserError

NAME = "coco_captions"
SPLITS = {"validation": "val"}  # what TFDS calls it

File = tuple[str, int, int]  # its path, the first record of it that counts, and how many do


def open_tfds(config: DataConfig, training: bool, seed: int) -> Source:
    """Examples of a prepared coco_captions; images stay encoded until they are used. See mmjax/data/streams.py.

    data.root is TFDS's data_dir, a folder or a bucket (gs://...). A split is one of the data set, such as "train" or
    "train[:10%]"; "validation" stands for its "val".

    Raises:
        UserError: where it is not prepared there, or has no such split.
    """
    root, split = config.root, config.split(training)
    _, info = _split(root, split)
    files, size = _files(info), info.num_examples
    lengths, buffer = [take for _, _, take in files], max(config.shuffle_buffer // streams.STREAMS, 1)

    def read(spec: ReadSpec) -> Iterator[Examples]:
        opened: dict[int, tuple[int, _Stream]] = {}  # of each stream, the epoch that it is in
        pool = ThreadPoolExecutor(streams.STREAMS, "mmjax-stream")

        def found(position: int) -> tuple[_Stream, int]:
            """The stream that has the position, and its place there."""
            epoch, number = position // size, position % streams.STREAMS
            place = (position - streams.first_position(size, epoch, number)) // streams.STREAMS
            if number not in opened or opened[number][0] != epoch:
                length = streams.stream_length(size, epoch, number)
                order = streams.stream_order(length, buffer, spec, epoch, number)
                parts = streams.stream_parts(lengths, spec, epoch, number)
                opened[number] = epoch, _Stream(pool, files, parts, order, place)
            return opened[number][1], place

        def batches() -> Iterator[dict[str, Any]]:
            for positions in streams.stream_positions(spec, size):
                places = [found(position) for position in positions.tolist()]  # before any of them is waited for
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
        rows = tfds_originals(root, split).captions()
        return (text for _, texts in rows for text in texts)

    return Source("coco_tfds", size, captioned_images(config), all_captions, read)


class _Stream:
    """The records of a stream in an epoch, by their place, from any place on and in ascending order.

    Args:
        pool: reads ahead.
        files: with the first record that counts in each, and their number.
        parts: what the stream reads.
        order: which record of the parts is at each place.
        place: the first that is taken.
    """

    def __init__(
        self, pool: ThreadPoolExecutor, files: Sequence[File], parts: Sequence[Part], order: np.ndarray, place: int
    ) -> None:
        self._places = np.argsort(order)
        self._records = read_ahead(pool, _numbered(files, parts, int(order[place:].min())))
        self._held: dict[int, bytes] = {}  # what was read and is still to come, by its place
        self._at = place

    def take(self, place: int) -> bytes:
        for passed in range(self._at, place):  # by another process
            self._held.pop(passed, None)
        self._at = place + 1
        while place not in self._held:
            number, record = next(self._records)
            if (at := int(self._places[number])) >= place:
                self._held[at] = record
        return self._held.pop(place)


def _numbered(files: Sequence[File], parts: Sequence[Part], first: int) -> Iterator[tuple[int, bytes]]:
    """The records of the parts with their numbers, from one on."""
    begin = 0
    for file, start, count in parts:
        path, skip, _ = files[file]
        passed = min(max(first - begin, 0), count)
        if passed < count:
            yield from enumerate(read_records("coco_tfds", path, skip + start + passed, count - passed), begin + passed)
        begin += count


def tfds_originals(root: str, split: str) -> Originals:
    """The records of a prepared coco_captions, in its own order.

    Raises:
        UserError: as open_tfds.
    """
    builder, info = _split(root, split)
    files = _files(info)

    def rows(start: int, stop: int) -> Iterator[dict[str, list[Any]]]:
        parts = streams.cut([take for _, _, take in files], range(len(files)), start, stop)
        with ThreadPoolExecutor(1) as pool:
            for _, record in read_ahead(pool, _numbered(files, parts, 0)):
                yield _example(record)

    def read(start: int, stop: int) -> Iterator[Original]:
        for row in rows(start, stop):
            name, image = row["image/filename"][0].decode("utf-8", "replace"), row["image"][0]
            numbered = list(zip(row["captions/id"], _texts(row), strict=True))
            yield Original(row["image/id"][0], name, numbered, functools.partial(bytes, image))

    def all_captions() -> Iterator[tuple[int, list[str]]]:
        return ((row["image/id"][0], _texts(row)) for row in rows(0, info.num_examples))

    made_from = {"source": "coco_tfds", "dataset": builder.info.full_name, "shards": list(info.shard_lengths)}
    return Originals(info.num_examples, read, all_captions, [], {**made_from, "bytes": info.num_bytes})


def _files(info: Any) -> list[File]:
    return [(str(file.filename), file.skip, file.take) for file in info.file_instructions]


def _example(record: bytes) -> dict[str, list[Any]]:
    try:
        fields = read_record(record)
        fields["image"][0], fields["image/id"][0], fields["captions/text"]
    except (ValueError, LookupError) as error:
        raise UserError(f"data.source coco_tfds: holds a record that is no example of {NAME}") from error
    return fields


def _texts(row: dict[str, list[Any]]) -> list[str]:
    return [text.decode("utf-8", "replace") for text in row["captions/text"]]


def _split(root: str, split: str) -> tuple[Any, Any]:
    """The builder of a data set and what it tells about a split."""
    builder = _builder(root)
    try:
        info = builder.info.splits[SPLITS.get(split, split)]
    except (KeyError, ValueError) as error:
        known = ", ".join(builder.info.splits) or "none"
        raise UserError(f"{NAME} in {root}: has no split {split}; it has {known}") from error
    if not info.num_examples:
        raise UserError(f"{NAME} in {root}: split {split} is empty; {_how(root)}")
    return builder, info


def _how(root: str) -> str:
    return f"prepare it with `tfds build {NAME} --data_dir={root}`, or use data.source=coco_folder"


def _builder(root: str) -> Any:
    of_buckets = [tensorflow().errors.OpError] if "://" in root else []
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError("data.source: coco_tfds needs TFDS: pip install tensorflow-datasets") from error
    try:
        builder = tfds.core.read_only_builder.builder_from_files(NAME, data_dir=root)
    except (tfds.core.DatasetNotFoundError, OSError, ValueError, *of_buckets) as error:
        raise UserError(f"{root}: no prepared {NAME} there; {_how(root)}") from error
    if builder.info.file_format.value != "tfrecord":
        raise UserError(f"{NAME} in {root}: its files are {builder.info.file_format.value}; must be tfrecord")
    return builder


SOURCE = SourceSpec(captioned_images, open_tfds, raw=tfds_originals)
