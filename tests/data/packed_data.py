"""A data set packed from a small COCO folder, for the tests of reading and of writing one, and ways to damage it."""

import hashlib
import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_data import config_dict, encoded, jpeg, make_image, write_coco
from PIL import Image

from mmjax.data import load_tokenizer, open_raw, train_tokenizer, write_packed
from mmjax.data.packed import folder_of
from mmjax.data.shard_cache import Cache
from mmjax.types import Batch

TOKENIZER = load_tokenizer(train_tokenizer([f"image {n} caption {n}" for n in range(10)], 300))
TRAINING = {n: jpeg(n, height=41 + n, width=67 - n) for n in range(1, 24)} | {
    29: encoded(Image.fromarray(make_image(29)).convert("CMYK"), "JPEG"),
    31: encoded(Image.fromarray(make_image(31)), "PNG"),
}
EVALUATION = {n: jpeg(n) for n in range(100, 107)}
SHARD = 7


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("originals")
    write_coco(root, "train2017", TRAINING)
    return write_coco(root, "val2017", EVALUATION)


def prepare(coco: Path, to: Path, **options: Any) -> Cache:
    return write_packed(to, open_raw(config_dict("coco_folder", coco).data), **({"shard_size": SHARD} | options))


@pytest.fixture(scope="module")
def packed(coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("packed")
    prepare(coco, to)
    return to


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed, tmp_path / "copy"))


@pytest.fixture(scope="module")
def smaller(coco: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another preparation of the same images."""
    to = tmp_path_factory.mktemp("smaller")
    prepare(coco, to, resize=40)
    return to


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


def shard(root: Path, number: int = 1) -> Path:
    return sorted(folder_of(root).glob("mmjax_coco-train.array_record-*"))[number]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def change(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def mix(root: Path, other: Path, file: str, name: str = "") -> None:
    """Puts a file of another preparation into this one, in the place of that of the same or another name."""
    shutil.copy(folder_of(other) / file, folder_of(root) / (name or file))
