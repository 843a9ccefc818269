"""TFDS metadata and records of packed datasets, without TensorFlow.

Examples have the fields of TFDS's coco_captions except objects: `image`, `image/filename`, `image/id`, and `captions`
with `id` and `text`.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mmjax.data.captions import utf8
from mmjax.types import UserError

NAME, VERSION = "mmjax_coco", "1.0.0"
DESCRIPTION = "Images of COCO with their captions, as mmjax prepare wrote them."


def shard_name(split: str, shard: int, shards: int) -> str:
    return f"{NAME}-{split}.array_record-{shard:05d}-of-{shards:05d}"


def write_info(folder: Path, splits: Mapping[str, Sequence[tuple[int, int]]]) -> None:
    """Writes dataset_info.json and features.json; splits are lists of (examples, bytes) of each shard.

    Raises:
        UserError: where they cannot be written.
    """
    import tensorflow_datasets as tfds

    module = f"mmjax.data.{NAME}"
    builder = tfds.core.dataset_info.DatasetIdentity(NAME, tfds.core.Version(VERSION), str(folder), module)
    info = make_info(builder)
    info.set_file_format("array_record")
    files = tfds.core.ShardedFileTemplate(folder, dataset_name=NAME, filetype_suffix="array_record")
    rows = []
    for name, shards in splits.items():
        lengths, sizes = zip(*shards, strict=True)
        row = {"name": name, "shard_lengths": list(lengths), "num_bytes": sum(sizes)}
        rows.append(tfds.core.SplitInfo(**row, filename_template=files))
    info.set_splits(tfds.core.splits.SplitDict(rows))
    try:
        info.write_to_directory(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from error


def make_info(builder: Any) -> Any:
    """TFDS's DatasetInfo of a builder (or of its identity), without splits."""
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(encoding_format="jpeg"),
            "image/filename": tfds.features.Text(),
            "image/id": np.int64,
            "captions": tfds.features.Sequence({"id": np.int64, "text": tfds.features.Text()}),
        }
    )
    # Records are ordered by id.
    return tfds.core.DatasetInfo(builder=builder, description=DESCRIPTION, features=features, disable_shuffling=True)


@functools.cache
def protos() -> tuple[ModuleType, ModuleType]:
    """Imports TFDS's protos of tf.train.Example. Call before starting threads: TFDS disturbs their imports."""
    from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

    return tf_example_pb2, tf_feature_pb2


def record(image: bytes, name: str, key: int, captions: Sequence[tuple[int, str]]) -> bytes:
    """Serializes an encoded image and its captions, pairs of id and text, deterministically as a tf.train.Example."""
    example, feature = protos()

    def of_bytes(*values: bytes) -> Any:
        return feature.Feature(bytes_list=feature.BytesList(value=values))

    def of_ints(*values: int) -> Any:
        return feature.Feature(int64_list=feature.Int64List(value=values))

    fields = {
        "image": of_bytes(image),
        "image/filename": of_bytes(utf8(name)),
        "image/id": of_ints(key),
        "captions/id": of_ints(*(number for number, _ in captions)),
        "captions/text": of_bytes(*(utf8(text) for _, text in captions)),
    }
    content: bytes = example.Example(features=feature.Features(feature=fields)).SerializeToString(deterministic=True)
    return content


def read_record(content: bytes) -> dict[str, list[Any]]:
    """Parses a tf.train.Example into lists of bytes, integers or floats by field.

    Raises:
        ValueError: for an invalid record.
    """
    from google.protobuf.message import DecodeError

    try:
        features = protos()[0].Example.FromString(content).features.feature
    except DecodeError as error:
        raise ValueError("not a serialized tf.train.Example") from error
    kinds = {name: feature.WhichOneof("kind") for name, feature in features.items()}
    return {name: list(getattr(features[name], kind).value) for name, kind in kinds.items() if kind}
