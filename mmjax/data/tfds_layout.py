"""The files by which TFDS knows a data set, and the records in it, written and read without TensorFlow or TFDS.

An example has the fields of TFDS's coco_captions, without the objects: `image`, `image/filename`, `image/id`, and
`captions` with `id` and `text`.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmjax.data.captions import utf8

NAME, VERSION = "mmjax_coco", "1.0.0"
DESCRIPTION = "Images of COCO with their captions, as mmjax prepare wrote them."

_FEATURES = "tensorflow_datasets.core.features"
LENGTH_DELIMITED = 2  # the wire type of a field that holds bytes, in a protocol buffer
BYTES_LIST, INT64_LIST = 1, 3  # fields of tf.train.Feature


def shard_name(split: str, shard: int, shards: int) -> str:
    return f"{NAME}-{split}.array_record-{shard:05d}-of-{shards:05d}"


def dataset_info(splits: Mapping[str, Sequence[tuple[int, int]]]) -> dict[str, Any]:
    """dataset_info.json, from the examples and the bytes of each shard."""
    rows = [
        {
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            "name": name,
            "numBytes": str(sum(size for _, size in shards)),
            "shardLengths": [str(examples) for examples, _ in shards],
        }
        for name, shards in splits.items()
    ]
    return {
        "description": DESCRIPTION,
        "disableShuffling": True,  # the records are in the order of the ids
        "fileFormat": "array_record",
        "moduleName": f"mmjax.data.{NAME}",
        "name": NAME,
        "splits": rows,
        "version": VERSION,
    }


def features() -> dict[str, Any]:
    """features.json."""
    text = {"pythonClassName": f"{_FEATURES}.text_feature.Text", "text": {}}
    number = {
        "pythonClassName": f"{_FEATURES}.tensor_feature.Tensor",
        "tensor": {"dtype": "int64", "encoding": "none", "shape": {}},
    }
    image = {
        "image": {"dtype": "uint8", "encodingFormat": "jpeg", "shape": {"dimensions": ["-1", "-1", "3"]}},
        "pythonClassName": f"{_FEATURES}.image_feature.Image",
    }
    captions = {
        "pythonClassName": f"{_FEATURES}.sequence_feature.Sequence",
        "sequence": {"feature": _dict({"id": number, "text": text}), "length": "-1"},
    }
    return _dict({"captions": captions, "image": image, "image/filename": text, "image/id": number})


def _dict(entries: dict[str, Any]) -> dict[str, Any]:
    return {"featuresDict": {"features": entries}, "pythonClassName": f"{_FEATURES}.features_dict.FeaturesDict"}


def record(image: bytes, name: str, key: int, captions: Sequence[tuple[int, str]]) -> bytes:
    """An example as a serialized tf.train.Example.

    Args:
        image: the encoded image.
        captions: each with its id.
    """
    fields = {
        "image": _bytes_list([image]),
        "image/filename": _bytes_list([utf8(name)]),
        "image/id": _int64_list([key]),
        "captions/id": _int64_list([number for number, _ in captions]),
        "captions/text": _bytes_list([utf8(text) for _, text in captions]),
    }
    # Example.features, Features.feature and the entries of a map are all field 1; the value of an entry is field 2.
    entries = (_field(1, _field(1, name.encode()) + _field(2, value)) for name, value in fields.items())
    return _field(1, b"".join(entries))


def _bytes_list(values: Iterable[bytes]) -> bytes:
    return _field(BYTES_LIST, b"".join(_field(1, value) for value in values))


def _int64_list(values: Iterable[int]) -> bytes:
    packed = b"".join(_varint(value % 2**64) for value in values)
    return _field(INT64_LIST, _field(1, packed) if packed else b"")


def _field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer that holds bytes: its number and wire type, the length, the content."""
    return _varint(number << 3 | LENGTH_DELIMITED) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    groups = [value >> shift & 127 for shift in range(0, max(value.bit_length(), 1), 7)]
    return bytes(itertools.chain((group | 128 for group in groups[:-1]), groups[-1:]))


def read_record(content: bytes) -> dict[str, list[Any]]:
    """The fields of a serialized tf.train.Example: each a list of bytes or of integers; those of floats are left out.

    Raises:
        ValueError: where it is none.
    """
    read: dict[str, list[Any]] = {}
    for _, features in _fields(memoryview(content)):
        for _, entry in _fields(features):
            (_, name), (_, feature) = _fields(entry)
            for kind, values in _fields(feature):
                if kind == BYTES_LIST:
                    read[bytes(name).decode()] = [bytes(value) for _, value in _fields(values)]
                elif kind == INT64_LIST:
                    read[bytes(name).decode()] = [number for _, packed in _fields(values) for number in _int64s(packed)]
    return read


def _fields(content: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The numbers and contents of the fields of a protocol buffer, all of which hold bytes."""
    at = 0
    while at < len(content):
        tag, at = _number(content, at)
        length, at = _number(content, at)
        if tag & 7 != LENGTH_DELIMITED or at + length > len(content):
            raise ValueError("not a serialized tf.train.Example")
        yield tag >> 3, content[at : at + length]
        at += length


def _int64s(packed: memoryview) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = _number(packed, at)
        yield value - 2**64 if value >= 2**63 else value


def _number(content: memoryview, at: int) -> tuple[int, int]:
    """A varint, and where the next thing begins."""
    value = shift = 0
    while at < len(content):
        value |= (content[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if content[at - 1] < 128:
            return value, at
    raise ValueError("not a serialized tf.train.Example")
