"""Lets the tests here import runs, made_data and special_files, and gives them the fixtures of the commands."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "commands"))
sys.path.insert(0, str(Path(__file__).parents[1] / "data"))

from made_data import jpeg, write_coco
from runs import Once, Run, made_once, run_command, start_command, user_mistake

__all__ = ["made_once", "run_command", "start_command", "user_mistake"]

CONFIG = "--config=configs/coco_direct.py:tiny"


@pytest.fixture(scope="session")
def images(once: Once) -> Path:
    """A COCO folder of eight images to train on and three to evaluate on."""

    def make(root: Path) -> None:
        write_coco(root, "train2017", {number: jpeg(number) for number in range(1, 9)})
        write_coco(root, "val2017", {number: jpeg(number) for number in range(11, 14)})

    return once("images", make)


@pytest.fixture(scope="session")
def finished(once: Once, run: Run, images: Path) -> Path:
    """The workdir of a finished training on the images, of four steps, evaluated and saved after two and four."""
    return once("finished", lambda workdir: run("train", CONFIG, f"--config.data.root={images}", "--workdir", workdir))


@pytest.fixture
def workdir(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "run"))
