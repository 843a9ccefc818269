"""mmjax prepare --to=DIR, as users call it: shards from a COCO folder, going on, and what is told."""

import io
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import Mistake, Run, Start, wait_for
from test_train_coco import write_split

pytest.importorskip("array_record")

CONFIG = "--config=configs/coco_direct.py:tiny"


def jpeg(number: int, side: int = 48) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(noise).save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    broken: dict[int, Any] = {2: b"broken", 3: None}
    write_split(root, "train2017", {n: jpeg(n) for n in range(10, 21)} | broken)
    write_split(root, "val2017", {n: jpeg(n) for n in range(30, 33)})
    return root


def test_shards_are_prepared_without_tensorflow_and_told(coco: Path, tmp_path: Path, run: Run) -> None:
    arguments = ("prepare", CONFIG, f"--config.data.root={coco}", "--to", tmp_path / "to", "--resize=40")
    for _ in range(2):
        done = run(*arguments, "--jobs=2", "--shard-size=5")
        counts = "train 11 kept, 2 rejected, validation 3 kept, 0 rejected"
        with_them = f"train with --config.data.source=coco_packed --config.data.root={tmp_path / 'to'}"
        assert done.stdout == f"{tmp_path / 'to'}: {counts}; {with_them}\n"
        told = [line for line in done.stderr.splitlines() if "rejected" in line]
        assert len(told) == 1 and "train: 11 kept, 2 rejected: 000000000003.jpg (no such file), " in told[0]
    folder = tmp_path / "to" / "mmjax_coco" / "1.0.0"
    index = json.loads((folder / "index.json").read_text())
    assert [s["info"]["examples"] for s in index["shards"] if s["part"] == "train"] == [4, 5, 2]


def test_stopped_it_leaves_what_is_whole_and_goes_on(tmp_path: Path, run: Run, start: Start, mistake: Mistake) -> None:
    write_split(tmp_path, "train2017", {n: jpeg(n, 300) for n in range(120)})
    write_split(tmp_path, "val2017", {1: jpeg(1)})
    arguments = ("prepare", CONFIG, f"--config.data.root={tmp_path}", f"--to={tmp_path / 'to'}", "--shard-size=10")
    folder = tmp_path / "to" / "mmjax_coco" / "1.0.0"
    with start(*arguments) as process:
        wait_for(process, lambda: bool(list(folder.glob("*train*-00001-of-00012"))))
        process.send_signal(signal.SIGSTOP)  # so that it is not done before the second one has begun
        assert f"{folder}: is being written by process {process.pid} on " in mistake(*arguments)
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130, process.communicate()
    index = json.loads((folder / "index.json").read_text())
    shards = {path: path.stat().st_mtime_ns for row in index["shards"] for path in [folder / row["file"]]}
    assert 1 <= len(shards) < 12 and not list(folder.glob(".*"))
    assert "train 120 kept, 0 rejected" in run(*arguments).stdout
    assert {path: path.stat().st_mtime_ns for path in shards} == shards


@pytest.mark.parametrize(("arguments", "hint"), [
    ([], "one of the arguments --workdir --to is required"),
    (["--to=a", "--workdir=b"], "not allowed with"),
    (["--workdir=b", "--resize=256"], "--resize: goes with --to=DIR"),
    (["--to=a", "--resize=36"], "--resize: 36 is smaller than data.resize, 37"),
    (["--to=a", "--resize=0"], "--resize: must be 1 or more, not 0"),
    (["--to=a", "--jobs=-1"], "--jobs: must be 1 or more, not -1"),
    (["--to=a", "--shard-size=x"], "--shard-size: invalid int value"),
    (["--to=a", "--config.data.source=scenes", "--config.data.flip=false"], "takes coco_folder, coco_tfds, not sce"),
    (["--to=gs://bucket/coco"], "packed data sets are read from a disk"),
])  # fmt: skip
def test_mistakes_are_one_line(arguments: list[str], hint: str, coco: Path, mistake: Mistake) -> None:
    assert hint in mistake("prepare", CONFIG, f"--config.data.root={coco}", *arguments)


@pytest.mark.slow
def test_training_on_shards(coco: Path, tmp_path: Path, run: Run) -> None:
    pytest.importorskip("tensorflow")
    run("prepare", CONFIG, f"--config.data.root={coco}", "--to", tmp_path / "to")
    settings = ("--config.data.source=coco_packed", f"--config.data.root={tmp_path / 'to'}")
    run("train", CONFIG, *settings, "--workdir", tmp_path / "run")
    assert (tmp_path / "run" / "report.html").exists()
