"""TFRecord files read from any record on, beside TensorFlow, and damaged in every way."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")
import tensorflow as tf

from mmjax.data.tfds import AHEAD, read_ahead, read_records
from mmjax.types import UserError

RECORDS = [bytes([n]) * (n * n * 7) for n in range(23)]  # the first is empty


@pytest.fixture
def file(tmp_path: Path) -> Path:
    with tf.io.TFRecordWriter(str(tmp_path / "records")) as writer:
        for record in RECORDS:
            writer.write(record)
    return tmp_path / "records"


@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize(("skip", "take"), [(0, 23), (0, 1), (7, 5), (22, 1), (23, 0)])
def test_records_are_those_that_tensorflow_wrote(skip: int, take: int, scheme: str, file: Path) -> None:
    assert list(read_records(f"{scheme}{file}", skip, take)) == RECORDS[skip : skip + take]


def change(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


START = sum(len(record) + 16 for record in RECORDS[:11])  # of record 11


@pytest.mark.parametrize(("damage", "hint"), [
    (lambda content: change(content, START), "in record 11"),
    (lambda content: change(content, START + 8), "in record 11"),
    (lambda content: change(content, START + 100), "in record 11"),
    (lambda content: change(content, START + 12 + len(RECORDS[11])), "in record 11"),
    (lambda content: content[:START], "in record 11"),
    (lambda content: content[: START + 3], "in record 11"),
    (lambda content: content[: START + 100], "in record 11"),
    (lambda content: b"", "in record 0 or before"),
    (lambda content: b"\x1f\x8b" + content, "in record 0 or before"),
])  # fmt: skip
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_damaged_file_is_one_line(damage: Callable[[bytes], bytes], hint: str, scheme: str, file: Path) -> None:
    file.write_bytes(damage(file.read_bytes()))
    seen = []
    told_as = rf"^data\.source coco_tfds: cannot be read: .*: ends or is damaged {hint}( .*)?; is the data set complete"
    with pytest.raises(UserError, match=told_as) as told:
        for record in read_records(f"{scheme}{file}", 0, 23):
            seen.append(record)
    assert seen == RECORDS[: len(seen)] and len(seen) in (0, 11) and "\n" not in str(told.value)
    if file.stat().st_size < START + 200:  # nor is what is missing passed over
        with pytest.raises(UserError, match="in record 12 or before"):
            next(read_records(f"{scheme}{file}", 12, 1))


@pytest.mark.parametrize("path", ["/nowhere/it", "file:///nowhere/it", "none://nowhere/it"])
def test_a_file_that_is_missing_is_one_line(path: str) -> None:
    with pytest.raises(UserError, match=f"cannot be read: {path}: .*; is the data set complete") as told:
        next(read_records(path, 0, 1))
    assert "\n" not in str(told.value)


def test_some_records_are_read_ahead_and_no_more() -> None:
    made: list[int] = []
    enough = threading.Event()

    def numbers() -> Iterator[int]:
        for n in range(5 * AHEAD):
            made.append(n)
            if len(made) == 2 * AHEAD:
                enough.set()
            yield n

    with ThreadPoolExecutor(1) as pool:
        ahead = read_ahead(pool, numbers())
        assert next(ahead) == 0 and enough.wait(10) and len(made) <= 2 * AHEAD + 1
        assert list(ahead) == list(range(1, 5 * AHEAD))


def test_what_fails_ahead_is_told_where_it_is_reached() -> None:
    def failing() -> Iterator[int]:
        yield from range(AHEAD)
        raise UserError("it")

    with ThreadPoolExecutor(1) as pool:
        ahead = read_ahead(pool, failing())
        assert [next(ahead) for _ in range(AHEAD)] == list(range(AHEAD))
        with pytest.raises(UserError, match=r"^it$"):
            next(ahead)
