"""Prepared data sets: the same batches as their originals, read by TFDS, and damaged in every way."""

import dataclasses
import hashlib
import io
import itertools
import json
import logging
import os
import platform
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("array_record")
from made_data import encoded, jpeg, picture, prepare_tfds, recipe, write_coco
from PIL import Image

from mmjax.data import (
    evaluation_batches,
    load_tokenizer,
    open_originals,
    open_source,
    train_tokenizer,
    training_batches,
    write_prepared,
)
from mmjax.data.prepared import Index, folder_of
from mmjax.data.shrink import shrink
from mmjax.types import Batch, UserError

TOKENIZER = load_tokenizer(train_tokenizer([f"picture {n} caption {n}" for n in range(10)], 300))
TRAINING = {n: jpeg(n, height=41 + n, width=67 - n) for n in range(1, 24)} | {
    29: encoded(Image.fromarray(picture(29)).convert("CMYK"), "JPEG"),
    31: encoded(Image.fromarray(picture(31)), "PNG"),
}
EVALUATION = {n: jpeg(n) for n in range(100, 107)}
SHARD = 7


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("originals")
    write_coco(root, "train2017", TRAINING)
    return write_coco(root, "val2017", EVALUATION)


def prepare(coco: Path, to: Path, **options: Any) -> Index:
    return write_prepared(to, open_originals(recipe("coco_folder", coco).data), **({"shard_size": SHARD} | options))


@pytest.fixture(scope="module")
def prepared(coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("prepared")
    prepare(coco, to)
    return to


@pytest.fixture
def copy(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "copy"))


def take(batches: Iterator[Batch], count: int) -> list[Batch]:
    taken = list(itertools.islice(batches, count))
    batches.close()  # type: ignore[attr-defined]
    return taken


def equal(first: Batch, second: Batch) -> bool:
    arrays = all(np.array_equal(first[name], second[name]) for name in ("image", "text", "mask"))
    return first.keys() == second.keys() and arrays and all(first[name] == second[name] for name in ("id", "captions"))


def contents(root: Path) -> dict[str, str]:
    files = [path for path in folder_of(root).iterdir() if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("processes", [1, 2, 8])
def test_batches_are_those_of_the_folder(coco: Path, prepared: Path, processes: int) -> None:
    fields = {"batch": 8, "flip": True, "resize": 23}
    ours, theirs = recipe("coco_prepared", prepared, **fields), recipe("coco_folder", coco, **fields)
    sources = [(open_source(config.data, True, 0), config) for config in (ours, theirs)]
    assert sources[0][0].size == sources[1][0].size == len(TRAINING)
    assert list(sources[0][0].all_captions()) == list(sources[1][0].all_captions())
    for step in (0, 11, 10**6):
        (first, second), process = ([], []), processes - 1
        first, second = (take(training_batches(s, TOKENIZER, c, step, process, processes), 4) for s, c in sources)
        assert all(equal(a, b) and a["mask"].all() for a, b in zip(first, second, strict=True))
    held_out = [(open_source(config.data, False, 0), config) for config in (ours, theirs)]
    first, second = (list(evaluation_batches(s, TOKENIZER, c, 0, processes)) for s, c in held_out)
    assert len(first) == len(second) == 1 and equal(first[0], second[0])


COCO = os.environ.get("MMJAX_COCO_DIR", "")


@pytest.mark.skipif(not COCO, reason="MMJAX_COCO_DIR names no COCO folder with real pictures")
def test_batches_of_real_pictures_are_those_of_the_folder(tmp_path: Path) -> None:
    prepare(Path(COCO), tmp_path, shard_size=64)
    configs = [
        recipe(name, root, batch=16, size=64) for name, root in (("coco_prepared", tmp_path), ("coco_folder", COCO))
    ]
    first, second = (take(training_batches(open_source(c.data, True, 0), TOKENIZER, c, 3), 2) for c in configs)
    assert all(equal(a, b) and a["mask"].all() for a, b in zip(first, second, strict=True))


def test_tfds_opens_it_by_name_and_by_folder(prepared: Path) -> None:
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder_of(prepared))
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "train": len(TRAINING),
        "validation": len(EVALUATION),
    }
    rows = tfds.data_source("mmjax_coco", data_dir=str(prepared), split="train")
    assert len(rows) == len(TRAINING)
    assert [int(rows[i]["image/id"]) for i in range(len(rows))] == sorted(TRAINING)
    row = rows[20]
    np.testing.assert_array_equal(row["image"], np.asarray(Image.open(io.BytesIO(TRAINING[21]))))
    assert row["image/filename"] == b"000000000021.jpg"
    assert list(row["captions"]["text"]) == [f"picture 21 caption {i}".encode() for i in range(5)]
    assert list(row["captions"]["id"]) == list(range(100, 105))


def test_tfds_load_opens_it_once_our_builder_is_imported(prepared: Path, tmp_path: Path) -> None:
    import tensorflow_datasets as tfds

    from mmjax.data.mmjax_coco import MmjaxCoco

    data, info = tfds.load("mmjax_coco", data_dir=str(prepared), with_info=True)
    ids = [int(row["image/id"]) for row in data["train"]]
    assert ids == sorted(TRAINING) and info.version == "1.0.0"
    part = tfds.load(
        "mmjax_coco", data_dir=str(prepared), split="train[5:17]", decoders={"image": tfds.decode.SkipDecoding()}
    )
    assert [bytes(row["image"].numpy()) for row in part] == [TRAINING[n] for n in sorted(TRAINING)[5:17]]
    shuffled = tfds.load("mmjax_coco", data_dir=str(prepared), split="train", shuffle_files=True)
    mixed = [int(row["image/id"]) for row in shuffled]
    assert sorted(mixed) == ids != mixed
    with pytest.raises(tfds.core.DatasetNotFoundError, match="no prepared data set; make one with mmjax prepare"):
        tfds.load("mmjax_coco", data_dir=str(tmp_path))
    # What is written by hand is what TFDS would write.
    features = MmjaxCoco(data_dir=str(tmp_path)).info.features
    features.save_config(str(tmp_path))
    ours, theirs = (json.loads((folder / "features.json").read_text()) for folder in (folder_of(prepared), tmp_path))
    assert ours == theirs


def test_records_are_examples_of_tensorflow() -> None:
    import tensorflow as tf

    from mmjax.data.tfds_layout import record

    captions = [(0, ""), (-3, "drei"), (2**63 - 1, "три" * 50)]
    for texts in (captions, []):
        example = tf.train.Example.FromString(record(b"\xff" * 300, "a/ä.jpg", 2**40, texts))
        feature = example.features.feature
        assert feature["image"].bytes_list.value == [b"\xff" * 300]
        assert feature["image/filename"].bytes_list.value == ["a/ä.jpg".encode()]
        assert feature["image/id"].int64_list.value == [2**40]
        assert feature["captions/id"].int64_list.value == [number for number, _ in texts]
        assert feature["captions/text"].bytes_list.value == [text.encode() for _, text in texts]


# Going on, and repairing


def test_prepared_again_nothing_is_written(coco: Path, copy: Path) -> None:
    shards = sorted(folder_of(copy).glob("*.array_record-*"))
    before, times = contents(copy), [path.stat().st_mtime_ns for path in shards]
    prepare(coco, copy, jobs=1)
    assert contents(copy) == before and [path.stat().st_mtime_ns for path in shards] == times


@pytest.mark.parametrize("stop_at", [0, 2, 4])
def test_an_interrupted_preparation_goes_on(
    stop_at: int, coco: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["mmjax.data.write_prepared"]
    write, written = module._write_shard, []

    def stopping(path: Path, results: Any, wanted: int, bar: Any) -> Any:
        if len(written) == stop_at:
            for _ in range(wanted // 2):  # in the middle of a shard
                next(results)
            raise KeyboardInterrupt
        written.append(path)
        return write(path, results, wanted, bar)

    monkeypatch.setattr(module, "_write_shard", stopping)
    with pytest.raises(KeyboardInterrupt):
        prepare(coco, tmp_path)
    assert not (folder_of(tmp_path) / "dataset_info.json").exists()
    with pytest.raises(UserError, match=r"is not finished; run mmjax prepare .* goes on where it stopped"):
        open_source(recipe("coco_prepared", tmp_path).data, True, 0)
    times = {path: path.stat().st_mtime_ns for path in written}
    (folder_of(tmp_path) / ".mmjax_coco-train.array_record-00001-of-00004.99.tmp").write_bytes(b"of a process killed")
    monkeypatch.undo()
    prepare(coco, tmp_path)
    assert contents(tmp_path) == contents(prepared)
    assert times == {path: path.stat().st_mtime_ns for path in written}


def shard(root: Path, number: int = 1) -> Path:
    return sorted(folder_of(root).glob("mmjax_coco-train.array_record-*"))[number]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def change(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def mix(root: Path, other: Path, file: str) -> None:
    shutil.copy(folder_of(other) / file, folder_of(root) / file)


@pytest.fixture(scope="module")
def smaller(coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another preparation of the same pictures."""
    to = tmp_path_factory.mktemp("smaller")
    prepare(coco, to, resize=40)
    return to


@pytest.mark.parametrize(("breaking", "hint"), [
    (lambda root, other: cut(shard(root)), "00001-of-00004: holds [0-9,]+ bytes instead of [0-9,]+: cut off, or"),
    (lambda root, other: shard(root, 0).write_bytes(b""), "00000-of-00004: holds 0 bytes instead of"),
    (lambda root, other: shard(root, 3).unlink(), "00003-of-00004: No such file"),
    (lambda root, other: change(shard(root), -9), "00001-of-00004: damaged, or of another preparation"),
    (lambda root, other: mix(root, other, shard(root).name), "00001-of-00004: .*of another preparation"),
    (lambda root, other: mix(root, other, "train.captions"), r"train\.captions: is of another preparation"),
    (lambda root, other: change(folder_of(root) / "train.captions", -1), r"train\.captions: its bytes are not those"),
    (lambda root, other: cut(folder_of(root) / "train.captions"), r"train\.captions: "),
    (lambda root, other: (folder_of(root) / "train.captions").write_bytes(b""), r"train\.captions: not a file of capt"),
    (lambda root, other: (folder_of(root) / "train.captions").unlink(), r"train\.captions: No such file"),
    (lambda root, other: (folder_of(root) / "index.json").write_bytes(b""), "not an index of prepared data"),
    (lambda root, other: cut(folder_of(root) / "index.json"), "not an index of prepared data"),
])  # fmt: skip
def test_what_is_damaged_is_one_line_and_is_repaired(
    breaking: Callable[[Path, Path], Any], hint: str, coco: Path, prepared: Path, copy: Path, smaller: Path
) -> None:
    whole = {path: path.stat().st_mtime_ns for path in folder_of(copy).glob("*.array_record-*")}
    breaking(copy, smaller)
    with pytest.raises(UserError, match=hint) as error:
        open_source(recipe("coco_prepared", copy).data, True, 0)
    assert str(copy) in str(error.value) and "prepare" in str(error.value) and "\n" not in str(error.value)
    prepare(coco, copy)
    assert contents(copy) == contents(prepared)
    rewritten = [path for path, time in whole.items() if path.stat().st_mtime_ns != time]
    assert len(rewritten) <= (len(whole) if "index" in hint else 1)
    config = recipe("coco_prepared", copy)
    assert take(training_batches(open_source(config.data, True, 0), TOKENIZER, config), 1)[0]["mask"].all()


def test_a_byte_within_a_shard_is_found_by_preparing_again(
    coco: Path, prepared: Path, copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = shard(copy)
    change(path, path.read_bytes().index(TRAINING[14]) + 200)  # whose chunk has a checksum of its own
    config = recipe("coco_prepared", copy, batch=len(TRAINING))
    (batch,) = take(training_batches(open_source(config.data, True, 0), TOKENIZER, config), 1)
    assert [i for i, mask in zip(batch["id"], batch["mask"], strict=True) if not mask] == ["14"]
    caplog.clear()
    prepare(coco, copy)
    assert [record.getMessage() for record in caplog.records] == [f"{path}: damaged or missing; it is written again"]
    assert contents(copy) == contents(prepared)


def test_another_preparation_or_something_else_is_not_touched(coco: Path, copy: Path, tmp_path: Path) -> None:
    before = contents(copy)
    for options in ({"resize": 40}, {"shard_size": 5}):
        name, value = next(iter(options.items()))
        with pytest.raises(UserError, match=f"holds another preparation: .*{name} was [0-9]+ and now is {value}"):
            prepare(coco, copy, **options)
    fewer = write_coco(tmp_path / "fewer", "train2017", {n: TRAINING[n] for n in (1, 2)})
    write_coco(fewer, "val2017", EVALUATION)
    with pytest.raises(UserError, match=r"holds another preparation: splits.train.originals was 25 and now is 2"):
        prepare(fewer, copy)
    assert contents(copy) == before
    other = folder_of(tmp_path / "other")
    other.mkdir(parents=True)
    (other / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match="holds no prepared data set, but something else"):
        prepare(coco, tmp_path / "other")


def test_what_is_missing_is_one_line(coco: Path, prepared: Path, tmp_path: Path) -> None:
    for root, hint in (
        (tmp_path, "no prepared data set there; make one with mmjax prepare"),
        ("gs://b/x", "from a disk"),
    ):
        with pytest.raises(UserError, match=hint):
            open_source(recipe("coco_prepared", root).data, True, 0)
    with pytest.raises(UserError, match="has no split val2017; it has train, validation"):
        open_source(recipe("coco_prepared", prepared, train_split="val2017").data, True, 0)
    with pytest.raises(UserError, match="takes coco_folder and coco_tfds, not coco_prepared"):
        open_originals(recipe("coco_prepared", prepared).data)
    write_coco(tmp_path / "odd", "my-split", {1: jpeg(1)})
    odd = recipe("coco_folder", tmp_path / "odd", train_split="my-split", evaluation_split="my-split")
    with pytest.raises(UserError, match="split my-split: mmjax prepare --to takes whole splits"):
        write_prepared(tmp_path / "to", open_originals(odd.data))


# Two at once, and a full disk

HOLDING = """
import sys
from pathlib import Path
from mmjax.lock import locked
with locked(Path(sys.argv[1]), "x: is being prepared"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_prepare_the_same_folder(coco: Path, copy: Path) -> None:
    path = folder_of(copy) / ".lock"
    command = [sys.executable, "-c", HOLDING, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="is being prepared by process") as error:
            prepare(coco, copy)
        assert f"process {process.pid} on {platform.node()} since " in str(error.value)
        process.kill()
        process.wait()
    assert path.exists()  # what was killed left it
    prepare(coco, copy)
    assert not path.exists()


def test_a_stale_lock_is_taken_over(coco: Path, copy: Path) -> None:
    path = folder_of(copy) / ".lock"
    for content in (b"", b"no JSON", json.dumps({"pid": 2**22 + 1, "host": platform.node(), "since": "x"}).encode()):
        path.write_bytes(content)
        prepare(coco, copy)
        assert not path.exists()


def test_a_full_disk_leaves_nothing_that_seems_whole(coco: Path, prepared: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (100, 50_000):  # bytes of a file: first not even the index, then no shard
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(UserError, match=r"cannot be written: .*File too large") as error:
                prepare(coco, tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "\n" not in str(error.value)
        assert not {path.name for path in folder_of(tmp_path).iterdir()} - {"unfinished.json"}
    prepare(coco, tmp_path)
    assert contents(tmp_path) == contents(prepared)


def test_a_shard_that_cannot_be_written_is_one_line_and_those_before_stay(
    coco: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from array_record.python import array_record_module

    class Failing(array_record_module.ArrayRecordWriter):  # type: ignore[misc]
        def __init__(self, path: str, options: str) -> None:
            super().__init__(path, options)
            self.path = path

        def close(self) -> None:
            super().close()
            if "train.array_record-00002" in self.path:
                raise RuntimeError(f"write() failed: No space left on device; writing {self.path}; at byte 7")

    monkeypatch.setattr(array_record_module, "ArrayRecordWriter", Failing)
    with pytest.raises(
        UserError, match=r"00002-of-00004: cannot be written: write.. failed: No space left on device; run"
    ):
        prepare(coco, tmp_path)
    assert [path.name for path in sorted(folder_of(tmp_path).iterdir())] == [
        "mmjax_coco-train.array_record-00000-of-00004",
        "mmjax_coco-train.array_record-00001-of-00004",
        "unfinished.json",
    ]
    monkeypatch.undo()
    prepare(coco, tmp_path)
    assert contents(tmp_path) == contents(prepared)


# What is rejected, and what is made smaller


def test_what_is_rejected_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = {2: jpeg(2)[:700], 3: b"no picture", 5: b"", 7: encoded(Image.new("L", (50_000, 2)), "PNG"), 11: None}
    bad |= {13: encoded(Image.fromarray(picture(13)), "TIFF")}
    good = {n: jpeg(n) for n in (1, 4, 17)}
    captions = {n: [f"caption {n}"] for n in (*bad, *good)}
    root = write_coco(tmp_path / "coco", "train2017", {**bad, **good, 19: jpeg(19)}, captions)
    write_coco(root, "val2017", EVALUATION)
    caplog.clear()
    index = prepare(root, tmp_path / "to", shard_size=1)
    assert [index.splits["train"].examples, len(index.splits["train"].rejected)] == [3, 7]
    lines = [json.loads(line) for line in (folder_of(tmp_path / "to") / "rejected.jsonl").read_text().splitlines()]
    problems = {line["id"]: line["problem"] for line in lines}
    assert (
        problems[11] == "no such file" and problems[19] == "has no caption" and problems[7].startswith("50000 x 2 pix")
    )
    assert problems[3] == problems[5] == "not a picture; JPEG, PNG, GIF, BMP and WebP can be read"
    assert problems[2].startswith("cannot be read as a picture: ") and problems[13].startswith("is TIFF; JPEG")
    assert {(line["split"], line["file"]) for line in lines} == {("train", f"{n:012d}.jpg") for n in problems}
    told = caplog.records[-1].getMessage()
    assert told.startswith("train: 3 kept, 7 rejected: 000000000011.jpg (no such file), ") and "\n" not in told
    config = recipe("coco_prepared", tmp_path / "to", batch=3)
    (batch,) = take(training_batches(open_source(config.data, True, 0), TOKENIZER, config), 1)
    assert sorted(batch["id"]) == ["1", "17", "4"] and batch["mask"].all()
    import tensorflow_datasets as tfds  # also where shards hold nothing

    rows = tfds.data_source("mmjax_coco", data_dir=str(tmp_path / "to"), split="train")
    assert [int(row["image/id"]) for row in rows] == [1, 4, 17]


def test_ten_of_many_rejected_pictures_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_coco(tmp_path / "coco", "train2017", dict.fromkeys(range(13), b"nothing") | {20: jpeg(20)})
    write_coco(root, "val2017", EVALUATION)
    with caplog.at_level(logging.WARNING, "mmjax"):
        prepare(root, tmp_path / "to")
    told = caplog.records[-1].getMessage()
    assert told.count(".jpg (not a picture") == 10 and ", ...; all in " in told
    none = write_coco(tmp_path / "none", "train2017", dict.fromkeys(range(3), b"nothing"))
    write_coco(none, "val2017", EVALUATION)
    with pytest.raises(UserError, match=r"train: none of 3 pictures can be read; 000000000000\.jpg: not a picture"):
        prepare(none, tmp_path / "nothing")


def test_pictures_are_made_smaller_once(coco: Path, smaller: Path, caplog: pytest.LogCaptureFixture) -> None:
    import tensorflow_datasets as tfds

    rows = tfds.data_source(
        "mmjax_coco", data_dir=str(smaller), split="train", decoders={"image": tfds.decode.SkipDecoding()}
    )
    for row in rows:
        number, content = int(row["image/id"]), bytes(row["image"])
        before, now = Image.open(io.BytesIO(TRAINING[number])), Image.open(io.BytesIO(content))
        if min(before.size) <= 40:
            assert content == TRAINING[number]
        else:
            assert now.format == "JPEG" and min(now.size) == 40
            assert max(now.size) == round(max(before.size) * 40 / min(before.size))
            whole = before.convert("RGB").resize(now.size, Image.Resampling.LANCZOS)
            assert np.abs(np.asarray(whole, float) - np.asarray(now, float)).mean() < 3
    open_source(recipe("coco_prepared", smaller, size=16, resize=40).data, True, 0)
    assert "made smaller" not in caplog.text
    open_source(recipe("coco_prepared", smaller, size=16, resize=41).data, True, 0)
    assert "pictures were made smaller, to 40 pixels, and data.resize is 41" in caplog.text


def test_a_picture_made_smaller_is_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(Image.fromarray(picture(7, 60, 90)), "JPEG", quality=95, exif=exif)
    small = Image.open(io.BytesIO(shrink(turned, "a", 30)))
    assert small.size == (30, 45) and small.getexif().get(0x0112, 1) == 1
    expected = Image.fromarray(np.rot90(picture(7, 60, 90), -1)).resize((30, 45), Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(small, float) - np.asarray(expected, float)).mean() < 3
    assert shrink(turned, "a", 60) == turned == shrink(turned, "a", 0)


# From TFDS


def test_what_tfds_prepared_is_prepared_again(tmp_path: Path) -> None:
    root = prepare_tfds(tmp_path / "tfds", range(1, 12), range(100, 105))
    config = recipe("coco_tfds", root)
    write_prepared(tmp_path / "to", open_originals(config.data), shard_size=3)
    rejected = [json.loads(line) for line in (folder_of(tmp_path / "to") / "rejected.jsonl").read_text().splitlines()]
    assert [(row["id"], row["file"]) for row in rejected] == [(5, "5.jpg")]
    ours, theirs = recipe("coco_prepared", tmp_path / "to"), config
    first, second = (list(evaluation_batches(open_source(c.data, False, 0), TOKENIZER, c)) for c in (ours, theirs))
    assert len(first) == 1 and equal(first[0], second[0]) and first[0]["mask"].all()
    source = open_source(ours.data, True, 0)
    assert source.size == 10
    before = contents(tmp_path / "to")
    shard(tmp_path / "to", 2).unlink()
    write_prepared(tmp_path / "to", open_originals(config.data), shard_size=3)
    assert contents(tmp_path / "to") == before
    changed = dataclasses.replace(config.data, train_split="train[:3]")
    with pytest.raises(UserError, match="takes whole splits"):
        write_prepared(tmp_path / "part", open_originals(changed))
