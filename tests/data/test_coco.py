"""A COCO folder as a source: the layouts, and everything that may be wrong with one."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tensorflow")
from made_data import config_dict, encoded, jpeg, make_image, write_coco
from PIL import Image

from mmjax.data import evaluation_batches, load_tokenizer, open_source, train_tokenizer, training_batches
from mmjax.types import UserError

TOKENIZER = load_tokenizer(train_tokenizer([f"image {n} caption {n}" for n in range(10)], 300))


@pytest.mark.parametrize(("split", "name", "folder"), [
    ("train", "train_split", "train2017"),
    ("train", "train_split", "train2014"),
    ("validation", "evaluation_split", "val2017"),
    ("validation", "evaluation_split", "val2014"),
    ("val2017", "evaluation_split", "val2017"),
    ("mine", "train_split", "mine"),
])  # fmt: skip
def test_layouts_are_found(split: str, name: str, folder: str, tmp_path: Path) -> None:
    config = config_dict(
        "coco_folder", write_coco(tmp_path / "coco", folder, {n: jpeg(n) for n in (7, 3)}), **{name: split}
    )
    source = open_source(config.data, name == "train_split", 0)
    assert source.size == 2
    assert list(source.all_captions()) == [f"image {n} caption {i}" for n in (3, 7) for i in range(5)]


def test_2017_comes_before_2014_but_only_when_complete(tmp_path: Path) -> None:
    write_coco(tmp_path, "train2014", {n: jpeg(n) for n in range(3)})
    (tmp_path / "train2017").mkdir()
    config = config_dict("coco_folder", tmp_path)
    assert open_source(config.data, True, 0).size == 3
    (tmp_path / "train2017").rmdir()
    write_coco(tmp_path, "train2017", {n: jpeg(n) for n in range(2)})
    assert open_source(config.data, True, 0).size == 2


def test_images_are_those_of_the_files(tmp_path: Path) -> None:
    content = {n: encoded(Image.fromarray(make_image(n, 16, 16)), "PNG") for n in range(1, 4)}
    config = config_dict("coco_folder", write_coco(tmp_path / "coco", "val2017", content), resize=16)
    batch = next(evaluation_batches(open_source(config.data, False, 0), TOKENIZER, config))
    expected = np.stack([make_image(n, 16, 16) for n in range(1, 4)]).astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(batch["image"][:3], expected, atol=1e-5)
    assert batch["id"] == ["1", "2", "3", "", ""] and batch["mask"].tolist() == [True] * 3 + [False] * 2
    assert (batch["image"][3:] == 0).all() and batch["image"].dtype == np.float32
    assert batch["captions"][0] == [f"image 1 caption {i}" for i in range(5)] and batch["captions"][4] == []
    assert TOKENIZER.decode(batch["text"][1:2]) == ["image 2 caption 0"]


BAD = {
    2: jpeg(2)[:700],
    3: b"no image at all",
    5: b"",
    7: encoded(Image.new("L", (50_000, 2)), "PNG"),
}
ODD = {
    11: encoded(Image.fromarray(make_image(11)).convert("L"), "JPEG"),
    13: encoded(Image.fromarray(make_image(13)).convert("CMYK"), "JPEG"),
    17: encoded(Image.fromarray((np.arange(29 * 31, dtype=np.uint16) * 61).reshape(29, 31)), "PNG"),
    19: encoded(Image.fromarray(make_image(19)), "GIF", save_all=True, append_images=[Image.fromarray(make_image(1))]),
    23: jpeg(23, height=1, width=997),
}


def test_unreadable_images_are_masked_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = config_dict("coco_folder", write_coco(tmp_path / "coco", "val2017", BAD | ODD))
    source = open_source(config.data, False, 0)
    with caplog.at_level(logging.WARNING, "mmjax"):
        batches = list(evaluation_batches(source, TOKENIZER, config))
    readable = {i: bool(m) for batch in batches for i, m in zip(batch["id"], batch["mask"], strict=True) if i}
    assert readable == {str(n): n in ODD for n in BAD | ODD}
    for batch in batches:
        assert all((image == 0).all() != mask for image, mask in zip(batch["image"], batch["mask"], strict=True))
        assert np.isfinite(batch["image"]).all() and np.abs(batch["image"]).max() <= 1
    assert source.num_corrupt == len(BAD)
    assert [record.getMessage() for record in caplog.records] == [
        f"coco_folder: image {n} cannot be read and is masked out" for n in sorted(BAD)
    ]


def test_only_the_first_ten_unreadable_images_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = config_dict("coco_folder", write_coco(tmp_path / "coco", "val2017", dict.fromkeys(range(13), b"nothing")))
    source = open_source(config.data, False, 0)
    source.max_corrupt_fraction = 1
    with caplog.at_level(logging.WARNING, "mmjax"):
        assert not any(batch["mask"].any() for batch in evaluation_batches(source, TOKENIZER, config))
    assert source.num_corrupt == 13 and len(caplog.records) == 10
    assert "only counted" in caplog.records[-1].getMessage()


def test_too_many_unreadable_images_end_the_run_and_ten_are_named(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "coco", "val2017", dict.fromkeys(range(13), b"nothing"))
    source = open_source(config_dict("coco_folder", root).data, False, 0)
    with pytest.raises(UserError) as told:
        list(evaluation_batches(source, TOKENIZER, config_dict("coco_folder", root)))
    message = str(told.value)
    assert "could not be read, more than data.max_corrupt_fraction=0.1 of them" in message and "\n" not in message
    assert message.endswith("the first: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9; replace them, or raise data.max_corrupt_fraction")


def test_odd_captions_pass_through(tmp_path: Path) -> None:
    captions = {1: [""], 2: ["word " * 10_000], 3: ["красный кот", "赤い猫"], 4: ["two\nlines", "", "three"]}
    root = write_coco(tmp_path / "coco", "val2017", {n: jpeg(n) for n in captions}, captions)
    config = config_dict("coco_folder", root)
    source = open_source(config.data, False, 0)
    batch = next(evaluation_batches(source, TOKENIZER, config))
    assert batch["captions"][:4] == list(captions.values())
    assert batch["text"].shape == (5, 13) and 1 not in batch["text"]
    assert batch["text"][0].tolist() == batch["text"][4].tolist() == [3] + [0] * 12
    assert batch["text"][1, -1] == 3 and TOKENIZER.decode(batch["text"][3:4]) == ["two lines"]


def test_absent_images_are_left_out_with_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_coco(tmp_path / "coco", "train2017", {1: jpeg(1), 2: None, 3: None, 5: jpeg(5)})
    source = open_source(config_dict("coco_folder", root).data, True, 0)
    assert source.size == 2 and len(list(source.all_captions())) == 10
    assert len(caplog.records) == 1 and "2 images" in caplog.text and "000000000002.jpg" in caplog.text


def test_images_without_captions_are_left_out_with_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_coco(tmp_path / "coco", "train2017", {n: jpeg(n) for n in range(3)}, {1: ["one"], 99: ["no image"]})
    source = open_source(config_dict("coco_folder", root).data, True, 0)
    assert source.size == 1 and list(source.all_captions()) == ["one"]
    assert len(caplog.records) == 1 and "2 images have no caption" in caplog.text


def _rewrite(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def breaking(root: Path) -> None:
        path = root / "annotations/captions_train2017.json"
        tree = json.loads(path.read_text())
        path.write_text(json.dumps(change(tree)))

    return breaking


def _truncate(root: Path) -> None:
    path = root / "annotations/captions_train2017.json"
    path.write_bytes(path.read_bytes()[:200])


def _empty_folder(root: Path) -> None:
    for path in (root / "train2017").iterdir():
        path.unlink()


@pytest.mark.parametrize(("breaking", "hint"), [
    (lambda root: os.rename(root, root.with_name("elsewhere")), "coco: no such folder; data.root must hold"),
    (lambda root: os.rename(root / "train2017", root / "x"), "train2017 or .*train2014: no such folder"),
    (lambda root: os.rename(root / "annotations", root / "x"), r"captions_train2017\.json: no such file, though"),
    (_truncate, r"captions_train2017\.json: not complete JSON"),
    (lambda root: (root / "annotations/captions_train2017.json").write_bytes(b"\xff\xfe\xfa"), "not complete JSON"),
    (_empty_folder, "train2017: holds none of the 3 images"),
    (_rewrite(lambda tree: tree | {"annotations": []}), "'annotations: "),
    (_rewrite(lambda tree: tree | {"annotations": [{"image_id": 7, "caption": "a"}]}), "none of the 0 images"),
    (_rewrite(lambda tree: {k: v for k, v in tree.items() if k != "images"}), "not COCO's captions .*'images'"),
    (_rewrite(lambda tree: tree | {"annotations": [{"id": 1, "bbox": []}]}), "not COCO's captions .*'image_id'"),
    (_rewrite(lambda tree: tree | {"images": [{"id": "x", "file_name": ""}]}), "not COCO's captions"),
    (_rewrite(lambda tree: tree | {"images": ["a"]}), "not COCO's captions"),
    (_rewrite(lambda tree: [tree]), "not COCO's captions"),
])  # fmt: skip
def test_a_broken_folder_is_one_line(breaking: Callable[[Path], None], hint: str, tmp_path: Path) -> None:
    root = write_coco(tmp_path / "coco", "train2017", {n: jpeg(n) for n in range(3)})
    breaking(root)
    with pytest.raises(UserError, match=hint) as error:
        open_source(config_dict("coco_folder", root).data, True, 0)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_image_that_vanishes_later_is_masked(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "coco", "val2017", {n: jpeg(n) for n in range(3)})
    source = open_source(config_dict("coco_folder", root).data, False, 0)
    (root / "val2017" / "000000000001.jpg").unlink()
    batch = next(evaluation_batches(source, TOKENIZER, config_dict("coco_folder", root)))
    assert batch["mask"].tolist() == [True, False, True, False, False] and source.num_corrupt == 1


COCO = os.environ.get("MMJAX_COCO_DIR", "")


@pytest.mark.skipif(not COCO, reason="MMJAX_COCO_DIR names no COCO folder with real images")
def test_real_images() -> None:
    config = config_dict("coco_folder", COCO, batch=32, size=64, flip=True)
    source, evaluation = open_source(config.data, True, 0), open_source(config.data, False, 0)
    tokenizer = load_tokenizer(train_tokenizer(source.all_captions(), 1000))
    batches = training_batches(source, tokenizer, config)
    for _ in range(3):
        batch = next(batches)
        assert batch["image"].shape == (32, 64, 64, 3) and batch["mask"].all() and 1 not in batch["text"]
        assert -1 <= batch["image"].min() < -0.9 and 0.9 < batch["image"].max() <= 1
        assert min(map(len, batch["captions"])) >= 5
    seen = [i for batch in evaluation_batches(evaluation, tokenizer, config) for i in batch["id"] if i]
    assert len(seen) == len(set(seen)) == evaluation.size and not {*seen} & {*batch["id"]}
    first = Path(COCO) / "val2017" / f"{int(seen[0]):012d}.jpg"
    if first.exists():
        expected = np.asarray(Image.open(first).convert("RGB"), np.float32).mean((0, 1)) / 127.5 - 1
        batch = next(evaluation_batches(evaluation, tokenizer, config))
        assert np.abs(batch["image"][0].mean((0, 1)) - expected).max() < 0.2
