"""Records beside TensorFlow's."""

import subprocess
import sys

import pytest

pytest.importorskip("tensorflow")
import tensorflow as tf

from mmjax.data.tfds_layout import read_record, record


def test_records_are_examples_of_tensorflow() -> None:
    captions = [(0, ""), (-3, "drei"), (2**63 - 1, "три" * 50)]
    for texts in (captions, []):
        example = tf.train.Example.FromString(record(b"\xff" * 300, "a/ä.jpg", 2**40, texts))
        feature = example.features.feature
        assert read_record(example.SerializeToString()) == {
            name: list(value.bytes_list.value or value.int64_list.value) for name, value in feature.items()
        }
        assert feature["image"].bytes_list.value == [b"\xff" * 300]
        assert feature["image/filename"].bytes_list.value == ["a/ä.jpg".encode()]
        assert feature["image/id"].int64_list.value == [2**40]
        assert feature["captions/id"].int64_list.value == [number for number, _ in texts]
        assert feature["captions/text"].bytes_list.value == [text.encode() for _, text in texts]


def test_what_tensorflow_writes_is_read() -> None:
    features = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"\xff" * 300])),
        "objects/bbox": tf.train.Feature(float_list=tf.train.FloatList(value=[0.5, 1.5])),
        "image/id": tf.train.Feature(int64_list=tf.train.Int64List(value=[2**62, -(2**63), -1, 0])),
        "none": tf.train.Feature(bytes_list=tf.train.BytesList()),
        "unset": tf.train.Feature(),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    expected = {"image": [b"\xff" * 300], "image/id": [2**62, -(2**63), -1, 0], "none": [], "objects/bbox": [0.5, 1.5]}
    assert read_record(example) == expected and read_record(b"") == {}


def test_a_record_is_the_same_bytes_in_every_process() -> None:
    program = (
        "from mmjax.data.tfds_layout import record\n"
        "print(record(b'7' * 300, 'a.jpg', 7, [(1, 'one'), (2, 'two')]).hex())"
    )
    outputs = {subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout for _ in "ab"}
    assert len(outputs) == 1


def test_what_is_no_example_is_told() -> None:
    whole = record(b"\xff" * 300, "a", 7, [(1, "one")])
    for broken in (b"no example", whole[:-1], whole[:200], b"\x80"):
        with pytest.raises(ValueError, match=r"not a serialized tf\.train\.Example"):
            read_record(broken)
