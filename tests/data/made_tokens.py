"""A cache of tokens written from images that say which view they are, for the tests of writing and of reading one."""

import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_data import config_dict

from mmjax import data
from mmjax.config import Config
from mmjax.data.source import Examples, ReadSpec, Source
from mmjax.types import Feature

SIZE, VIEWS, BATCH, POSITIONS = 23, 3, 4, 9  # 9 positions a shard become 8: two batches
UNREADABLE = 7
KEY = {"data": {"size": 16}, "tokenizer": {"params": "12" * 32}}
PROGRAM = "import sys; sys.path.insert(0, 'tests/data'); from made_tokens import *\n"


def key_of(epoch: int, place: int) -> int:
    """A permutation of the examples, another one each epoch, on keys with gaps."""
    return 10 + 3 * ((place * 5 + epoch * 7) % SIZE)


def make_image(key: int, epoch: int) -> np.ndarray:
    """An image that tells which example of which epoch it is."""
    return np.array([key / 1024, epoch / 8, 0], np.float32) + np.zeros((3, 2, 3), np.float32)


FEATURES = {"image": Feature("image", (3, 2, 3)), "text": Feature("text")}


def made_source(size: int = SIZE) -> Source:
    """Images that say which view they are, one of them unreadable in every view, with 0, 1 or 2 captions."""

    def read(spec: ReadSpec) -> Iterator[Examples]:
        for positions in spec.positions():
            epochs, places = np.divmod(positions, size)
            pairs = list(zip(epochs, places, strict=True))
            keys = np.array([key_of(int(e), int(p)) if spec.training else 10 + 3 * p for e, p in pairs])
            mask = keys != 10 + 3 * UNREADABLE
            image = np.stack([make_image(int(k), int(e)) for k, e in zip(keys, epochs, strict=True)])
            image[~mask] = 0
            captions = [[f"image {k} caption {i}, é\n" for i in range(k % 3 % size)] for k in keys.tolist()]
            rows = {"image": image, "mask": mask, "key": keys, "epoch": epochs, "captions": captions}
            yield {**rows, "id": [f"number {k}" for k in keys.tolist()]}

    return Source("made", size, FEATURES, lambda: iter([]), read)


def encode(image: np.ndarray) -> dict[str, np.ndarray]:
    """Codes [b, 2, 5] of the key and [b, 1] of the epoch."""
    assert image.shape == (BATCH, 3, 2, 3) and image.dtype == np.float32
    key = np.rint(image[:, 0, 0, 0] * 1024).astype(np.int32)
    codes = key[:, None, None] + np.arange(10, dtype=np.int32).reshape(2, 5)
    return {"codes": codes, "view": np.rint(image[:, 0, 0, 1] * 8).astype(np.int32)[:, None]}


def made_config(batch: int = 4, seed: int = 3, views: int = VIEWS, **fields: Any) -> Config:
    config = config_dict("scenes", batch=batch, seed=seed, **fields)
    return dataclasses.replace(config, tokens=dataclasses.replace(config.tokens, num_augmentations=views))


def write(folder: Path, split: str = "train", **changes: Any) -> Path:
    given = {"source": made_source(), "config": made_config(), "encode": encode, "key": KEY, **changes}
    data.write_tokens(folder, split=split, batch=BATCH, positions=POSITIONS, **given)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="session")
def cached_tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("cache") / "train")


@pytest.fixture
def copied_tokens(cached_tokens: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "train"
    folder.mkdir()
    for name, content in contents(cached_tokens).items():
        (folder / name).write_bytes(content)
    return folder


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM + program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=120)
