"""A folder of images by class as a source: labels, classes, and everything that may be wrong with one."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_data import config_dict, encoded, jpeg, make_image, write_classes
from PIL import Image

from mmjax.data import evaluation_batches, load_tokenizer, open_source, train_tokenizer, training_batches
from mmjax.types import UserError

TOKENIZER = load_tokenizer(train_tokenizer(["some words"] * 9, 300))
TRAINING = {"dog": [4, 2], "cat": [1], "a bird": [7, 8]}


def make(root: Path, evaluation: Any = None) -> Path:
    write_classes(root, "train", TRAINING)
    return write_classes(root, "validation", evaluation or {"dog": [3], "cat": [5, 6]})


def test_images_are_those_of_the_files_with_their_class(tmp_path: Path) -> None:
    config = config_dict("classes_folder", make(tmp_path), resize=16)
    source = open_source(config.data, False, 0)
    assert (source.name, source.size, source.classes) == ("classes_folder", 3, ("a bird", "cat", "dog"))
    assert source.features == config.data.features and tuple(source.features) == ("image", "label")
    assert not list(source.all_captions())
    (batch,) = evaluation_batches(source, TOKENIZER, config)
    assert set(batch) == {"image", "text", "mask", "key", "label", "id", "captions"}
    assert batch["id"] == ["cat/005.jpg", "cat/006.jpg", "dog/003.jpg", "", ""]
    assert batch["label"].tolist() == [1, 1, 2, -1, -1] and batch["label"].dtype == np.int32
    assert batch["captions"] == [[]] * 5 and not np.any(batch["text"])
    blue = np.rint((batch["image"][:3, :, :, 2].mean((1, 2)) + 1) * 127.5)
    assert np.abs(blue - [make_image(n)[0, 0, 2] for n in (5, 6, 3)]).max() < 3


def test_training_has_each_image_once_an_epoch(tmp_path: Path) -> None:
    config = config_dict("classes_folder", make(tmp_path))
    source = open_source(config.data, True, 0)
    expected = {f"{name}/{n:03d}.jpg": source.classes.index(name) for name, row in TRAINING.items() for n in row}
    batches = training_batches(source, TOKENIZER, config)
    orders = []
    for _ in range(5):
        batch = next(batches)
        assert dict(zip(batch["id"], batch["label"].tolist(), strict=True)) == expected
        orders.append(tuple(batch["id"]))
    batches.close()  # type: ignore[attr-defined]
    assert len(set(orders)) > 2


def test_what_is_no_image_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make(tmp_path)
    for name in ("notes.txt", ".DS_Store", "more.PNG", "broken.jpeg"):
        (root / "train" / "cat" / name).write_bytes(b"broken")
    (root / "train" / "cat" / "more.PNG").write_bytes(encoded(Image.fromarray(make_image(9)), "PNG"))
    (root / "train" / "zebra").mkdir()
    (root / "train" / ".cache").mkdir()
    (root / "train" / "list.csv").write_bytes(b"")
    config = config_dict("classes_folder", root, batch=7)
    source = open_source(config.data, True, 0)
    assert source.size == 7 and source.classes == ("a bird", "cat", "dog", "zebra")
    assert [record.getMessage() for record in caplog.records] == [
        f"{root}/train/zebra: holds no image (.jpg, .jpeg, .png)",
        f"{root}/train: 1 files are not images and left out",
    ]
    caplog.clear()
    batches = training_batches(source, TOKENIZER, config)
    batch = next(batches)
    batches.close()  # type: ignore[attr-defined]
    masks = dict(zip(batch["id"], batch["mask"].tolist(), strict=True))
    assert not masks.pop("cat/broken.jpeg") and all(masks.values()) and "cat/more.PNG" in masks
    assert "image cat/broken.jpeg cannot be read and is masked out" in caplog.text


@pytest.mark.parametrize(("breaking", "hint"), [
    (lambda root: os.rename(root, root.with_name("x")), r"classes/train: No such file or directory; data\.root must"),
    (lambda root: shutil.rmtree(root / "validation"), "classes/validation: No such file or directory; data"),
    (lambda root: [shutil.rmtree(path) for path in (root / "train").iterdir()], "classes/train: holds no folder; the"),
    (lambda root: os.rename(root / "validation" / "dog", root / "validation" / "wolf"),
     "validation/wolf: .*/classes/train"),
    (lambda root: [path.unlink() for path in (root / "validation").glob("*/*")],
     r"classes/validation: its classes hold no images \(\.jpg"),
    (lambda root: (shutil.rmtree(root / "validation"), (root / "validation").write_text("")), "Not a directory; data"),
])  # fmt: skip
def test_a_broken_folder_is_one_line(breaking: Callable[[Path], object], hint: str, tmp_path: Path) -> None:
    root = make(tmp_path / "classes")
    breaking(root)
    with pytest.raises(UserError, match=hint) as error:
        open_source(config_dict("classes_folder", root).data, False, 0)
    assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)


def test_an_evaluation_need_not_have_all_classes(tmp_path: Path) -> None:
    root = write_classes(tmp_path, "train", {"b": [1], "a": [2], "c": [3]})
    (root / "validation" / "c").mkdir(parents=True)
    (root / "validation" / "c" / "x.jpg").write_bytes(jpeg(1))
    config = config_dict("classes_folder", root)
    (batch,) = evaluation_batches(open_source(config.data, False, 0), TOKENIZER, config)
    assert batch["label"].tolist() == [2, -1, -1, -1, -1]
