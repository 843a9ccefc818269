"""TFDS's TFRecords as a source: what each process reads, what a resume reads, other batches on the way."""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
from made_data import config_dict, prepare_tfds

from mmjax.data import load_tokenizer, open_source, streams, tfds, train_tokenizer, training_batches
from mmjax.data.tfds import _Stream, read_records
from mmjax.types import UserError

SIZE, SHARDS, BUFFER = 331, 8, 40
TOKENIZER = load_tokenizer(train_tokenizer([f"image {n} caption {n}" for n in range(10)], 300))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tfds(tmp_path_factory.mktemp("tfds"), range(SIZE), range(400, 411), SHARDS)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The file and the number of each record whose content is read."""
    records: list[tuple[str, int]] = []

    def noting(path: str, skip: int, take: int) -> Iterator[bytes]:
        for number, record in enumerate(read_records(path, skip, take), skip):
            records.append((path, number))
            yield record

    monkeypatch.setattr(tfds, "read_records", noting)
    return records


def ids(
    root: Path, batch: int, start: int, steps: int, process: int = 0, processes: int = 1, **fields: Any
) -> list[str]:
    config = config_dict(
        "coco_tfds", root, batch=batch, **({"shuffle_buffer": BUFFER, "max_corrupt_fraction": 1.0} | fields)
    )
    batches = training_batches(open_source(config.data, True, 0), TOKENIZER, config, start, process, processes)
    seen = [name for _ in range(steps) for name in next(batches)["id"]]
    batches.close()  # type: ignore[attr-defined]
    return seen


@pytest.mark.parametrize("processes", [2, 8])
def test_each_process_reads_its_own_part(processes: int, root: Path, read: list[tuple[str, int]]) -> None:
    of_processes = []
    for process in range(processes):
        ids(root, 16, 0, SIZE // 16 - 7, process, processes)  # some are made ahead, but none of the next epoch
        of_processes.append(set(read))
        assert len(of_processes[-1]) == len(read)
        read.clear()
    assert sum(map(len, of_processes)) == len(set().union(*of_processes)) > 0.6 * SIZE
    files = [{path for path, _ in records} for records in of_processes]
    assert sum(map(len, files)) <= SHARDS + processes + 1  # at the ends of its part another's file


@pytest.mark.parametrize("step", [1, 17, 100])
def test_a_resume_reads_what_is_still_to_come_and_little_before(
    step: int, root: Path, read: list[tuple[str, int]]
) -> None:
    ids(root, 16, step, 1)
    made_ahead, chunks = 5 * 16, 2 * tfds.AHEAD
    assert len(read) <= made_ahead + streams.STREAMS * (2 * BUFFER // streams.STREAMS + chunks) < SIZE


@pytest.mark.parametrize(("before", "after"), [(16, 8), (8, 24), (8, 5), (5, 40)])
def test_a_change_of_the_batch_repeats_and_skips_nothing(before: int, after: int, root: Path) -> None:
    changed = before * after  # positions
    first = ids(root, before, 0, after)
    then = ids(root, after, before, SIZE // after - before)
    assert len(first) == changed and len(first + then) > SIZE - after
    assert Counter(first + then).most_common(1)[0][1] == 1
    one_by_one = ids(root, 1, changed, after)
    assert set(one_by_one) == set(then[:after])


def test_images_and_captions_belong_together(root: Path) -> None:
    config = config_dict("coco_tfds", root, batch=32, max_corrupt_fraction=1.0)
    source = open_source(config.data, True, 0)
    batch = next(training_batches(source, TOKENIZER, config))
    for name, captions, image, mask in zip(batch["id"], batch["captions"], batch["image"], batch["mask"], strict=True):
        assert captions == [f"image {name} caption {i}" for i in range(5)] and mask == (name != "5")
        blue = (image[..., 2].mean() + 1) * 127.5
        assert not mask or abs(blue - int(name) * 37 % 256) < 5


def test_a_batch_is_of_many_files(root: Path, read: list[tuple[str, int]]) -> None:
    ids(root, 8, 0, 1, shuffle_buffer=1)
    assert len({path for path, _ in read}) >= SHARDS - 1


def test_what_is_held_is_less_than_the_buffer() -> None:
    rng = np.random.default_rng(7)
    order = np.argsort(np.arange(500) + 13 * rng.random(500))
    for start, apart in ((0, 1), (100, 1), (250, 3), (250, 90)):
        stream = _Stream(((n, b"%d" % n) for n in range(order[start:].min(), 500)), order, start)
        for place in range(start, 500, apart):
            assert stream.take(place) == b"%d" % order[place]
            assert len(stream._buffer) < 13


def test_a_process_that_passes_over_places_gives_the_same(root: Path) -> None:
    whole = ids(root, 6, 3, 12)
    parts = [ids(root, 6, 3, 12, process, 3) for process in range(3)]
    assert whole == [name for step in range(12) for part in parts for name in part[2 * step : 2 * step + 2]]


@pytest.mark.parametrize("damage", ["flipped", "cut", "shorter", "missing", "another"])
def test_a_damaged_file_is_one_line(damage: str, root: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(root, tmp_path / "copy"))
    for path in copy.rglob("*train.tfrecord*"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        length = 16 + int.from_bytes(content[:8], "little")
        if damage == "missing":
            path.unlink()
        elif damage == "another":
            import tensorflow as tf

            with tf.io.TFRecordWriter(str(path)) as writer:
                for _ in range(SIZE):
                    writer.write(b"no example")
        else:
            path.write_bytes({"flipped": content, "cut": content[:-9], "shorter": content[:length]}[damage])
    hint = "a record is not an example" if damage == "another" else "cannot be read: .*is the data set complete"
    config = config_dict("coco_tfds", copy)
    source = open_source(config.data, True, 0)
    for use in (lambda: ids(copy, 16, 0, SIZE // 16), lambda: list(source.all_captions())):
        with pytest.raises(UserError, match=f"^data.source coco_tfds: {hint}") as told:
            use()
        assert "\n" not in str(told.value)
