"""What a training depends on and its config does not name is the same where it resumes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import Mistake, Run

CONFIG = "--config=configs/coco_direct.py:tiny"


def without_one(root: Path) -> None:
    (root / "train2017" / f"{3:012d}.jpg").unlink()


def with_another_caption(root: Path) -> None:
    path = root / "annotations" / "captions_train2017.json"
    path.write_text(path.read_text().replace("image 3 caption 2", "image 3 is another"))


@pytest.mark.parametrize(
    ("change", "told"), [(without_one, "8 examples, and now there are 7"), (with_another_caption, "8 others")]
)
def test_a_training_resumes_on_its_own_examples_alone(
    change: Callable[[Path], None], told: str, workdir: Path, images: Path, tmp_path: Path, mistake: Mistake
) -> None:
    root = tmp_path / "other"
    shutil.copytree(images, root)
    change(root)
    line = mistake("train", CONFIG, f"--config.data.root={root}", "--config.train.steps=6", "--workdir", workdir)
    assert str(workdir) in line and f"data: the run was trained on {told}" in line


def test_the_data_set_may_lie_elsewhere(workdir: Path, images: Path, tmp_path: Path, run: Run) -> None:
    root = tmp_path / "moved"
    shutil.copytree(images, root)
    before = json.loads((workdir / "config.json").read_text())["data"]
    assert before["examples"] == 8 and len(before["sha256"]) == 64
    run("train", CONFIG, f"--config.data.root={root}", "--workdir", workdir)
    assert json.loads((workdir / "config.json").read_text())["data"] == before
