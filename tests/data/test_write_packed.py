"""Preparing a data set: going on and repairing, two at once, a full disk, what is rejected and made smaller."""

import dataclasses
import io
import json
import logging
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("array_record")
from made_data import config_dict, encoded, jpeg, make_image, prepare_tfds, write_coco
from packed_data import EVALUATION, TOKENIZER, TRAINING, contents, prepare, shard, take
from PIL import Image

from mmjax.data import evaluation_batches, open_raw, open_source, training_batches, write_packed
from mmjax.data.packed import folder_of, num_examples, recompress, rejected
from mmjax.types import UserError

# Going on


def test_prepared_again_nothing_is_written(coco: Path, copy: Path) -> None:
    shards = sorted(folder_of(copy).glob("*.array_record-*"))
    before, times = contents(copy), [path.stat().st_mtime_ns for path in shards]
    prepare(coco, copy, jobs=1)
    assert contents(copy) == before and [path.stat().st_mtime_ns for path in shards] == times


@pytest.mark.parametrize("stop_at", [0, 2, 4])
def test_an_interrupted_preparation_goes_on(
    stop_at: int, coco: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["mmjax.data.packed"]
    write, written = module._write_records, []

    def stopping(results: Any, size: int, done: Any, path: Path) -> Any:
        if len(written) == stop_at:
            for _ in range(size // 2):  # in the middle of a shard
                next(results)
            raise KeyboardInterrupt
        written.append(path.with_name(path.name.removeprefix(".").removesuffix(f".{os.getpid()}.tmp")))
        return write(results, size, done, path)

    monkeypatch.setattr(module, "_write_records", stopping)
    with pytest.raises(KeyboardInterrupt):
        prepare(coco, tmp_path)
    assert not (folder_of(tmp_path) / "dataset_info.json").exists()
    with pytest.raises(UserError, match=r"not complete: packed images; run mmjax prepare .*, which resumes"):
        open_source(config_dict("coco_packed", tmp_path).data, True, 0)
    times = {path: path.stat().st_mtime_ns for path in written}
    (folder_of(tmp_path) / ".mmjax_coco-train.array_record-00001-of-00004.99.tmp").write_bytes(b"of a process killed")
    monkeypatch.undo()
    prepare(coco, tmp_path)
    assert contents(tmp_path) == contents(packed)
    assert times == {path: path.stat().st_mtime_ns for path in written}


def test_what_is_being_repaired_cannot_be_opened(coco: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopping(*arguments: Any) -> None:
        raise KeyboardInterrupt

    before = contents(copy)
    shard(copy).unlink()
    monkeypatch.setattr(sys.modules["mmjax.data.packed"], "_write_records", stopping)
    with pytest.raises(KeyboardInterrupt):
        prepare(coco, copy)
    assert not {"dataset_info.json", "features.json"} & contents(copy).keys()
    with pytest.raises(UserError, match="not complete: packed images"):
        open_source(config_dict("coco_packed", copy).data, True, 0)
    monkeypatch.undo()
    prepare(coco, copy)
    assert contents(copy) == before


@pytest.mark.parametrize("stage", ["_write_captions", "_write_for_tfds", "write_info", "write_file", "finish"])
def test_what_was_stopped_behind_the_shards_goes_on(
    stage: str, coco: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["mmjax.data.packed"]

    def stopping(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, stage, stopping)
    with pytest.raises(KeyboardInterrupt):
        prepare(coco, tmp_path)
    with pytest.raises(UserError, match="not complete: packed images"):
        open_source(config_dict("coco_packed", tmp_path).data, True, 0)
    monkeypatch.undo()
    times = {path: path.stat().st_mtime_ns for path in folder_of(tmp_path).glob("*.array_record-*")}
    prepare(coco, tmp_path)
    assert contents(tmp_path) == contents(packed)
    assert len(times) == 5 and times == {path: path.stat().st_mtime_ns for path in times}


def test_another_preparation_or_something_else_is_not_touched(coco: Path, copy: Path, tmp_path: Path) -> None:
    before = contents(copy)
    for options in ({"resize": 40}, {"shard_size": 5}):
        name, value = next(iter(options.items()))
        with pytest.raises(UserError, match=f"holds other packed images: .*{name} was [0-9]+ and now is {value}"):
            prepare(coco, copy, **options)
    fewer = write_coco(tmp_path / "fewer", "train2017", {n: TRAINING[n] for n in (1, 2)})
    write_coco(fewer, "val2017", EVALUATION)
    with pytest.raises(UserError, match=r"holds other packed images: splits.train.images was 25 and now is 2"):
        prepare(fewer, copy)
    assert contents(copy) == before
    other = folder_of(tmp_path / "other")
    other.mkdir(parents=True)
    (other / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match="holds other files than packed images"):
        prepare(coco, tmp_path / "other")


# Two at once, and a full disk

HOLDING = """
import sys
from pathlib import Path
from mmjax.lock import locked
with locked(Path(sys.argv[1]), "x: is being written"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_prepare_the_same_folder(coco: Path, copy: Path) -> None:
    path = folder_of(copy) / ".lock"
    command = [sys.executable, "-c", HOLDING, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="is being written by process") as error:
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


def test_a_full_disk_leaves_nothing_that_seems_whole(coco: Path, packed: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (100, 50_000):  # bytes of a file: first not even the index, then no shard
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(UserError, match=r"cannot be written: .*File too large") as error:
                prepare(coco, tmp_path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "\n" not in str(error.value)
        assert not {path.name for path in folder_of(tmp_path).iterdir()} - {"index.json"}
    prepare(coco, tmp_path)
    assert contents(tmp_path) == contents(packed)


def test_a_shard_that_cannot_be_written_is_one_line_and_those_before_stay(
    coco: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
        "index.json",
        "mmjax_coco-train.array_record-00000-of-00004",
        "mmjax_coco-train.array_record-00001-of-00004",
    ]
    monkeypatch.undo()
    prepare(coco, tmp_path)
    assert contents(tmp_path) == contents(packed)


# What is rejected, and what is made smaller


def test_what_is_rejected_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = {2: jpeg(2)[:700], 3: b"no image", 5: b"", 7: encoded(Image.new("L", (50_000, 2)), "PNG"), 11: None}
    bad |= {13: encoded(Image.fromarray(make_image(13)), "TIFF")}
    good = {n: jpeg(n) for n in (1, 4, 17)}
    captions = {n: [f"caption {n}"] for n in (*bad, *good)}
    root = write_coco(tmp_path / "coco", "train2017", {**bad, **good, 19: jpeg(19)}, captions)
    write_coco(root, "val2017", EVALUATION)
    caplog.clear()
    cache = prepare(root, tmp_path / "to", shard_size=1)
    assert [num_examples(cache, "train"), len(rejected(cache, "train"))] == [3, 7]
    lines = [json.loads(line) for line in (folder_of(tmp_path / "to") / "rejected.jsonl").read_text().splitlines()]
    problems = {line["id"]: line["problem"] for line in lines}
    assert (
        problems[11] == "no such file" and problems[19] == "has no caption" and problems[7].startswith("50000 x 2 pix")
    )
    assert problems[3] == problems[5] == "not an image; JPEG, PNG, GIF, BMP and WebP can be read"
    assert problems[2].startswith("cannot be read as an image: ") and problems[13].startswith("is TIFF; JPEG")
    assert {(line["split"], line["file"]) for line in lines} == {("train", f"{n:012d}.jpg") for n in problems}
    told = caplog.records[-1].getMessage()
    assert told.startswith("train: 3 kept, 7 rejected: 000000000011.jpg (no such file), ") and "\n" not in told
    config = config_dict("coco_packed", tmp_path / "to", batch=3)
    (batch,) = take(training_batches(open_source(config.data, True, 0), TOKENIZER, config), 1)
    assert sorted(batch["id"]) == ["1", "17", "4"] and batch["mask"].all()
    import tensorflow_datasets as tfds  # also where shards hold nothing

    rows = tfds.data_source("mmjax_coco", data_dir=str(tmp_path / "to"), split="train")
    assert [int(row["image/id"]) for row in rows] == [1, 4, 17]


def test_ten_of_many_rejected_images_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_coco(tmp_path / "coco", "train2017", dict.fromkeys(range(13), b"nothing") | {20: jpeg(20)})
    write_coco(root, "val2017", EVALUATION)
    with caplog.at_level(logging.WARNING, "mmjax"):
        prepare(root, tmp_path / "to")
    told = caplog.records[-1].getMessage()
    assert told.count(".jpg (not an image") == 10 and ", ...; all in " in told
    none = write_coco(tmp_path / "none", "train2017", dict.fromkeys(range(3), b"nothing"))
    write_coco(none, "val2017", EVALUATION)
    with pytest.raises(UserError, match=r"train: none of 3 images can be read; 000000000000\.jpg: not an image"):
        prepare(none, tmp_path / "nothing")


def test_images_are_made_smaller_once(coco: Path, smaller: Path, caplog: pytest.LogCaptureFixture) -> None:
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
    open_source(config_dict("coco_packed", smaller, size=16, resize=40).data, True, 0)
    assert "made smaller" not in caplog.text
    open_source(config_dict("coco_packed", smaller, size=16, resize=41).data, True, 0)
    assert "images were made smaller, to 40 pixels, and data.resize is 41" in caplog.text


def test_a_image_made_smaller_is_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(Image.fromarray(make_image(7, 60, 90)), "JPEG", quality=95, exif=exif)
    small = Image.open(io.BytesIO(recompress(turned, "a", 30)))
    assert small.size == (30, 45) and small.getexif().get(0x0112, 1) == 1
    expected = Image.fromarray(np.rot90(make_image(7, 60, 90), -1)).resize((30, 45), Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(small, float) - np.asarray(expected, float)).mean() < 3
    assert recompress(turned, "a", 60) == turned == recompress(turned, "a", 0)


# From TFDS


def test_what_tfds_prepared_is_prepared_again(tmp_path: Path) -> None:
    root = prepare_tfds(tmp_path / "tfds", range(1, 12), range(100, 105))
    config = config_dict("coco_tfds", root)
    write_packed(tmp_path / "to", open_raw(config.data), shard_size=3)
    rejected = [json.loads(line) for line in (folder_of(tmp_path / "to") / "rejected.jsonl").read_text().splitlines()]
    assert [(row["id"], row["file"]) for row in rejected] == [(5, "5.jpg")]
    ours, theirs = config_dict("coco_packed", tmp_path / "to"), config
    first, second = (list(evaluation_batches(open_source(c.data, False, 0), TOKENIZER, c)) for c in (ours, theirs))
    assert len(first) == len(second) == 1 and first[0]["mask"].all()
    assert [sorted(zip(b["id"], b["captions"], b["image"].sum((1, 2, 3)).tolist(), strict=True)) for b in first] == [
        sorted(zip(b["id"], b["captions"], b["image"].sum((1, 2, 3)).tolist(), strict=True)) for b in second
    ]
    source = open_source(ours.data, True, 0)
    assert source.size == 10
    before = contents(tmp_path / "to")
    shard(tmp_path / "to", 2).unlink()
    write_packed(tmp_path / "to", open_raw(config.data), shard_size=3)
    assert contents(tmp_path / "to") == before
    changed = dataclasses.replace(config.data, train_split="train[:3]")
    with pytest.raises(UserError, match="takes whole splits"):
        write_packed(tmp_path / "part", open_raw(changed))


def test_needs_no_tensorflow(coco: Path, packed: Path, tmp_path: Path) -> None:
    program = """
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *rest: None if name.partition(".")[0] == "tensorflow" else find(name, *rest)
sys.path.insert(0, "tests/data")
from pathlib import Path
from packed_data import prepare
prepare(Path(sys.argv[1]), Path(sys.argv[2]))
assert "tensorflow" not in sys.modules
"""
    command = [sys.executable, "-c", program, str(coco), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path) == contents(packed)
