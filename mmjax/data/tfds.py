"""TFDS coco_captions, as it was prepared on a disk or in a bucket."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mmjax.data import operations
from mmjax.data.decoding import decoded
from mmjax.data.originals import Original, Originals
from mmjax.data.source import Reading, Rows, Source
from mmjax.types import UserError

PROVIDES = ("image", "text")
NAME = "coco_captions"
SPLITS = {"validation": "val"}  # what TFDS calls it
PARSED = 16  # records parsed ahead
OTHER, MINE, OVER = range(3)  # whose a record is
FILES_AT_ONCE, FROM_A_FILE = 16, 16  # a training epoch mixes so many files, so many records of each in turn


def open_tfds(root: str, split: str, shuffle_buffer: int) -> Source:
    """Examples of a prepared coco_captions; pictures stay encoded until they are used.

    Args:
        root: TFDS's data_dir, a folder or a bucket (gs://...).
        split: of the data set, such as "train" or "train[:10%]"; "validation" stands for its "val".
        shuffle_buffer: how many records are held in memory to shuffle them while training.

    Raises:
        UserError: where it is not prepared there, or has no such split.
    """
    builder, info = _split(root, split)

    def records(epoch: Any, shuffle: bool, seed: int) -> Any:
        """Serialized examples of an epoch."""
        tf = operations.tensorflow()
        files = info.file_instructions
        columns = [f.filename for f in files], [f.skip for f in files], [f.take for f in files]
        shards = tf.data.Dataset.from_tensor_slices((columns[0], *(tf.constant(c, tf.int64) for c in columns[1:])))

        @operations.as_written
        def shard(path: Any, skip: Any, take: Any) -> Any:
            return tf.data.TFRecordDataset(path).skip(skip).take(take)

        if not shuffle:
            return shards.flat_map(shard)
        seeds = tf.stack([tf.constant(seed, tf.int64), epoch])
        of_files, of_records = tf.unstack(tf.random.stateless_uniform([2], seeds, None, None, tf.int64))
        shards = shards.shuffle(len(files), seed=of_files, reshuffle_each_iteration=False)
        shuffled = shards.interleave(
            shard, FILES_AT_ONCE, FROM_A_FILE, num_parallel_calls=FILES_AT_ONCE, deterministic=True
        )
        return shuffled.shuffle(max(shuffle_buffer, 1), seed=of_records, reshuffle_each_iteration=False)

    def example(serialized: Any) -> Any:
        import tensorflow_datasets as tfds

        return builder.info.features.deserialize_example(serialized, decoders={"image": tfds.decode.SkipDecoding()})

    def all_captions() -> Iterator[str]:
        tf = operations.tensorflow()
        texts = records(0, False, 0).map(
            operations.as_written(lambda serialized: example(serialized)["captions"]["text"])
        )
        for row in operations.records_of("coco_tfds", texts.prefetch(tf.data.AUTOTUNE).as_numpy_iterator()):
            for text in row:
                yield text.decode("utf-8", "replace")

    def read(reading: Reading) -> Iterator[Rows]:
        tf = operations.tensorflow()
        first = next(reading.positions(), np.zeros(1, np.int64))[0]
        first_epoch, skipped = divmod(int(first), info.num_examples)
        epochs = tf.data.Dataset.range(first_epoch, operations.ENDLESS)

        @operations.as_written
        def numbered(epoch: Any) -> Any:
            return records(epoch, reading.training, reading.seed).map(lambda serialized: (epoch, serialized))

        whose = _whose(reading)

        @operations.as_written
        def told(position: Any, epoch_and_serialized: Any) -> Any:
            return tf.numpy_function(whose, [position], tf.int64), *epoch_and_serialized

        @operations.as_written
        def record(_: Any, epoch: Any, serialized: Any) -> dict[str, Any]:
            seen = example(serialized)
            key = tf.cast(seen["image/id"], tf.int64)
            return {"epoch": epoch, "key": key, "captions": seen["captions"]["text"], "picture": seen["image"]}

        stream = epochs.flat_map(numbered).skip(skipped).enumerate(int(first)).map(told)
        stream = stream.take_while(operations.as_written(lambda whose, *_: whose != OVER))
        stream = stream.filter(operations.as_written(lambda whose, *_: whose == MINE))
        mine = stream.map(record, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True).prefetch(PARSED)
        found = operations.records_of("coco_tfds", mine.as_numpy_iterator())

        def rows() -> Iterator[Rows]:
            for positions in reading.positions():
                if not (some := list(itertools.islice(found, len(positions)))):
                    return
                yield {
                    "epoch": np.array([row["epoch"] for row in some]),
                    "key": np.array([row["key"] for row in some]),
                    "id": [str(row["key"]) for row in some],
                    "captions": [[text.decode("utf-8", "replace") for text in row["captions"]] for row in some],
                    "picture": [row["picture"] for row in some],
                }

        return decoded(rows(), lambda content: content, reading)

    return Source("coco_tfds", info.num_examples, PROVIDES, all_captions, read)


def _whose(reading: Reading) -> Callable[[np.int64], np.int64]:
    """Tells of the positions of the stream, one after the other, whether they are among those of the reading."""
    mine = itertools.chain.from_iterable(map(np.ndarray.tolist, reading.positions()))
    awaited = next(mine, None)

    def told(position: np.int64) -> np.int64:
        nonlocal awaited
        if position != awaited:
            return np.int64(OVER if awaited is None else OTHER)
        awaited = next(mine, None)
        return np.int64(MINE)

    return told


def tfds_originals(root: str, split: str) -> Originals:
    """The records of a prepared coco_captions, in its own order.

    Raises:
        UserError: as open_tfds.
    """
    builder, info = _split(root, split)

    def rows(start: int, stop: int, pictures: bool) -> Iterator[Any]:
        tf = operations.tensorflow()
        import tensorflow_datasets as tfds

        wanted = {"image/id", "image/filename", "captions", *(["image"] if pictures else [])}
        decoding = tfds.decode.PartialDecoding(dict.fromkeys(wanted, True), {"image": tfds.decode.SkipDecoding()})
        features = decoding.extract_features(builder.info.features)
        decoders = decoding.decoders if pictures else None
        parse = operations.as_written(lambda serialized: features.deserialize_example(serialized, decoders=decoders))
        files = [(file.filename, file.skip, file.take) for file in info.file_instructions]
        stream = tf.data.TFRecordDataset([name for name, _, _ in files]).skip(start).take(stop - start)
        parsed = stream.map(parse, num_parallel_calls=2, deterministic=True).prefetch(PARSED)
        yield from operations.records_of("coco_tfds", parsed.as_numpy_iterator())

    def texts(row: Any) -> list[str]:
        return [text.decode("utf-8", "replace") for text in row["captions"]["text"]]

    def read(start: int, stop: int) -> Iterator[Original]:
        for row in rows(start, stop, pictures=True):
            numbers, name = row["captions"]["id"].tolist(), row["image/filename"].decode("utf-8", "replace")
            numbered = list(zip(numbers, texts(row), strict=True))
            yield Original(int(row["image/id"]), name, numbered, functools.partial(bytes, row["image"]))

    def all_captions() -> Iterator[tuple[int, list[str]]]:
        return ((int(row["image/id"]), texts(row)) for row in rows(0, info.num_examples, pictures=False))

    made_from = {"source": "coco_tfds", "dataset": builder.info.full_name, "shards": list(info.shard_lengths)}
    return Originals(info.num_examples, read, all_captions, [], {**made_from, "bytes": info.num_bytes})


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
    tf = operations.tensorflow()
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError("data.source: coco_tfds needs TFDS: pip install tensorflow-datasets") from error
    try:
        builder = tfds.core.read_only_builder.builder_from_files(NAME, data_dir=root)
    except (tfds.core.DatasetNotFoundError, OSError, ValueError, tf.errors.OpError) as error:
        raise UserError(f"{root}: no prepared {NAME} there; {_how(root)}") from error
    if builder.info.file_format.value != "tfrecord":
        raise UserError(f"{NAME} in {root}: its files are {builder.info.file_format.value}; must be tfrecord")
    return builder
