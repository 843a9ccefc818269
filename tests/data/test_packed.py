"""Prepared data sets: the same batches as their originals, read by TFDS, and damaged in every way."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("array_record")
from made_data import config_dict, jpeg, write_coco
from packed_data import EVALUATION, TOKENIZER, TRAINING, change, contents, cut, equal, mix, prepare, shard, take
from PIL import Image

from mmjax.data import evaluation_batches, open_raw, open_source, training_batches, write_packed
from mmjax.data.packed import folder_of
from mmjax.types import UserError


@pytest.mark.parametrize("processes", [1, 2, 8])
def test_batches_are_those_of_the_folder(coco: Path, packed: Path, processes: int) -> None:
    fields = {"batch": 8, "flip": True, "resize": 23}
    ours, theirs = config_dict("coco_packed", packed, **fields), config_dict("coco_folder", coco, **fields)
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


def test_a_shard_that_vanishes_or_breaks_later_is_masked(copy: Path) -> None:
    config = config_dict("coco_packed", copy, batch=len(TRAINING), max_corrupt_fraction=1.0)
    source = open_source(config.data, True, 0)
    content = shard(copy).read_bytes()
    shard(copy).write_bytes(content[: len(content) // 2])
    (batch,) = take(training_batches(source, TOKENIZER, config), 1)
    broken = {int(name) for name, mask in zip(batch["id"], batch["mask"], strict=True) if not mask}
    assert broken and broken <= set(sorted(TRAINING)[7:14])


COCO = os.environ.get("MMJAX_COCO_DIR", "")


@pytest.mark.skipif(not COCO, reason="MMJAX_COCO_DIR names no COCO folder with real images")
def test_batches_of_real_images_are_those_of_the_folder(tmp_path: Path) -> None:
    prepare(Path(COCO), tmp_path, shard_size=64)
    configs = [
        config_dict(name, root, batch=16, size=64) for name, root in (("coco_packed", tmp_path), ("coco_folder", COCO))
    ]
    first, second = (take(training_batches(open_source(c.data, True, 0), TOKENIZER, c, 3), 2) for c in configs)
    assert all(equal(a, b) and a["mask"].all() for a, b in zip(first, second, strict=True))


def test_tfds_opens_it_by_name_and_by_folder(packed: Path) -> None:
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder_of(packed))
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "train": len(TRAINING),
        "validation": len(EVALUATION),
    }
    rows = tfds.data_source("mmjax_coco", data_dir=str(packed), split="train")
    assert len(rows) == len(TRAINING)
    assert [int(rows[i]["image/id"]) for i in range(len(rows))] == sorted(TRAINING)
    row = rows[20]
    np.testing.assert_array_equal(row["image"], np.asarray(Image.open(io.BytesIO(TRAINING[21]))))
    assert row["image/filename"] == b"000000000021.jpg"
    assert list(row["captions"]["text"]) == [f"image 21 caption {i}".encode() for i in range(5)]
    assert list(row["captions"]["id"]) == list(range(100, 105))


def test_tfds_load_opens_it_once_our_builder_is_imported(packed: Path, tmp_path: Path) -> None:
    import tensorflow_datasets as tfds

    import mmjax.data.mmjax_coco  # noqa: F401

    data, info = tfds.load("mmjax_coco", data_dir=str(packed), with_info=True)
    ids = [int(row["image/id"]) for row in data["train"]]
    assert ids == sorted(TRAINING) and info.version == "1.0.0"
    part = tfds.load(
        "mmjax_coco", data_dir=str(packed), split="train[5:17]", decoders={"image": tfds.decode.SkipDecoding()}
    )
    assert [bytes(row["image"].numpy()) for row in part] == [TRAINING[n] for n in sorted(TRAINING)[5:17]]
    shuffled = tfds.load("mmjax_coco", data_dir=str(packed), split="train", shuffle_files=True)
    mixed = [int(row["image/id"]) for row in shuffled]
    assert sorted(mixed) == ids != mixed
    with pytest.raises(tfds.core.DatasetNotFoundError, match="no packed data set; make one with mmjax prepare"):
        tfds.load("mmjax_coco", data_dir=str(tmp_path))


def captions(root: Path, split: str = "train") -> Path:
    return folder_of(root) / f"{split}.captions-{0:012d}.safetensors"


@pytest.mark.parametrize(("breaking", "hint"), [
    (lambda root, other: cut(shard(root)), "00001-of-00004: holds [0-9,]+ bytes instead of [0-9,]+;"),
    (lambda root, other: shard(root, 0).write_bytes(b""), "00000-of-00004: holds 0 bytes instead of"),
    (lambda root, other: shard(root, 3).unlink(), "00003-of-00004: cannot be read: No such file"),
    (lambda root, other: change(shard(root), -9), "00001-of-00004: its bytes are not"),
    (lambda root, other: mix(root, other, shard(root).name), "00001-of-00004: its bytes are not"),
    (lambda root, other: mix(root, other, captions(other).name, captions(root, "validation").name), "val.*holds"),
    (lambda root, other: change(captions(root), -1), "train.captions-0+.safetensors: its bytes are not those"),
    (lambda root, other: cut(captions(root)), "train.captions-0+.safetensors: holds"),
    (lambda root, other: captions(root).write_bytes(b""), "train.captions-0+.safetensors: holds 0 bytes instead of"),
    (lambda root, other: captions(root).unlink(), "train.captions-0+.safetensors: cannot be read: No such file"),
    (lambda root, other: mix(root, root, shard(root, 0).name, shard(root, 1).name), "00001-of-00004: its by"),
    (lambda root, other: (folder_of(root) / "index.json").write_bytes(b""), "not an index of packed images"),
    (lambda root, other: cut(folder_of(root) / "index.json"), "not an index of packed images"),
])  # fmt: skip
def test_what_is_damaged_is_one_line_and_is_repaired(
    breaking: Callable[[Path, Path], Any], hint: str, coco: Path, packed: Path, copy: Path, smaller: Path
) -> None:
    whole = {path: path.stat().st_mtime_ns for path in folder_of(copy).glob("*.array_record-*")}
    breaking(copy, smaller)
    with pytest.raises(UserError, match=hint) as error:
        open_source(config_dict("coco_packed", copy).data, True, 0)
    assert str(copy) in str(error.value) and "prepare" in str(error.value) and "\n" not in str(error.value)
    prepare(coco, copy)
    assert contents(copy) == contents(packed)
    rewritten = [path for path, time in whole.items() if path.stat().st_mtime_ns != time]
    assert len(rewritten) <= (len(whole) if "index" in hint else 1)
    config = config_dict("coco_packed", copy)
    assert take(training_batches(open_source(config.data, True, 0), TOKENIZER, config), 1)[0]["mask"].all()


def test_an_index_of_another_preparation_is_one_line_and_refused(coco: Path, copy: Path, smaller: Path) -> None:
    mix(copy, smaller, "index.json")
    with pytest.raises(UserError, match="00000-of-00004: its bytes are not those"):
        open_source(config_dict("coco_packed", copy).data, True, 0)
    with pytest.raises(UserError, match=r"holds other packed images: .*resize was 40 and now is 0; remove the folder"):
        prepare(coco, copy)
    prepare(coco, copy, resize=40)
    assert contents(copy) == contents(smaller)


def test_a_byte_within_a_shard_is_found_by_preparing_again(
    coco: Path, packed: Path, copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = shard(copy)
    change(path, path.read_bytes().index(TRAINING[14]) + 200)  # whose chunk has a checksum of its own
    config = config_dict("coco_packed", copy, batch=len(TRAINING))
    (batch,) = take(training_batches(open_source(config.data, True, 0), TOKENIZER, config), 1)
    assert [i for i, mask in zip(batch["id"], batch["mask"], strict=True) if not mask] == ["14"]
    caplog.clear()
    prepare(coco, copy)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: its bytes are not those that were written; it is written again"
    ]
    assert contents(copy) == contents(packed)


def test_what_is_missing_is_one_line(coco: Path, packed: Path, tmp_path: Path) -> None:
    for root, hint in (
        (tmp_path, "no packed images; run mmjax prepare --to=.*, which makes them"),
        ("gs://b/x", "from a disk"),
    ):
        with pytest.raises(UserError, match=hint):
            open_source(config_dict("coco_packed", root).data, True, 0)
    with pytest.raises(UserError, match="has no split val2017; it has train, validation"):
        open_source(config_dict("coco_packed", packed, train_split="val2017").data, True, 0)
    with pytest.raises(UserError, match="takes coco_folder, coco_tfds, not coco_packed"):
        open_raw(config_dict("coco_packed", packed).data)
    write_coco(tmp_path / "odd", "my-split", {1: jpeg(1)})
    odd = config_dict("coco_folder", tmp_path / "odd", train_split="my-split", evaluation_split="my-split")
    with pytest.raises(UserError, match="split my-split: mmjax prepare --to takes whole splits"):
        write_packed(tmp_path / "to", open_raw(odd.data))
