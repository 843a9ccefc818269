"""mmjax train: stopped, killed, interrupted, out of space, out of bounds, it loses nothing and ends the same."""

import gc
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import (
    WHILE_IT_EVALUATES,
    Mistake,
    Run,
    Start,
    assert_same_state,
    committed,
    metrics,
    noise,
    saved_state,
    wait_for,
)

import mmjax
from mmjax import data
from mmjax.cli import main
from mmjax.types import Batch, UserError

STEPS = 16
STOPPING = "stopping after this step; press Ctrl-C again to exit immediately, without saving"
CONFIG = (
    "--config=configs/scenes_direct.py:tiny",
    f"--config.train.steps={STEPS}",
    "--config.train.checkpoint_every=4",
    "--config.train.evaluate_every=8",
    "--config.train.best_metric=",
)


@pytest.fixture(name="whole", scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    workdir = tmp_path_factory.mktemp("train") / "deep" / "whole"
    done = run("train", *CONFIG, "--workdir", workdir)
    assert noise(done.stderr) == []
    assert f"scenes_direct: all steps done; report: {workdir / 'report.html'}" in done.stdout
    return workdir


@pytest.fixture(name="half", scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    workdir = tmp_path_factory.mktemp("train") / "half"
    done = run("train", *CONFIG, "--workdir", workdir, "--stop-at", "6")
    assert "stopped after step 6;" in done.stdout
    return workdir


@pytest.fixture(name="earlier")
def whole_up_to_step_eight(whole: Path, tmp_path: Path) -> Path:
    """A copy without what came later."""
    copy = shutil.copytree(whole, tmp_path / "earlier")
    for step in (12, 16):
        shutil.rmtree(copy / "checkpoints" / str(step))
    for path in copy.glob("evaluation/16.*"):
        path.unlink()
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(line for line in lines if json.loads(line)["step"] <= 8))
    return copy


@pytest.fixture(name="half_copy")
def changeable_half(half: Path, tmp_path: Path) -> Path:
    return shutil.copytree(half, tmp_path / "half")


def test_leaves_what_the_contract_says(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} == {
        "checkpoints", "config.json", "evaluation", "metrics.jsonl", "report.html", "tensorboard", "tokenizer.model"
    }  # fmt: skip
    assert committed(whole) == [8, 12, 16]
    rows = metrics(whole)
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows if row["split"] == "evaluation"] == [8, 16]
    train = next(row for row in rows if row["split"] == "train")
    assert train.keys() == {"step", "split", "loss", "mean_squared_error", "gradient_norm", "skipped_steps",
                            "corrupt_examples"}  # fmt: skip
    assert train["skipped_steps"] == train["corrupt_examples"] == 0
    evaluation = json.loads((whole / "evaluation" / "16.json").read_text())
    assert {name: row for name, row in rows[-2].items() if name not in ("step", "split")} == evaluation
    assert {"loss", "scenes/all", "reconstruction/psnr"} <= evaluation.keys()
    assert json.loads((whole / "config.json").read_text())["config"]["train"]["steps"] == STEPS
    page = (whole / "report.html").read_text()
    assert "data:image/png;base64," in page and "scenes/all" in page and 'src="http' not in page


@pytest.mark.slow
def test_stopped_and_started_again_is_the_same(whole: Path, half_copy: Path, run: Run) -> None:
    assert committed(half_copy) == [4, 6]
    assert [row["step"] for row in metrics(half_copy)] == [1, 2, 3, 4, 5, 6]
    done = run("train", *CONFIG, "--workdir", half_copy)
    assert "resuming from step 6" in done.stdout
    assert_same_state(half_copy, whole, STEPS)
    assert metrics(half_copy) == metrics(whole)


def test_killed_and_started_again_is_the_same(whole: Path, tmp_path: Path, start: Start, run: Run) -> None:
    with start("train", *CONFIG, "--workdir", tmp_path) as process:
        wait_for(process, lambda: bool(committed(tmp_path)))
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL and 4 <= committed(tmp_path)[-1] < STEPS
    done = run("train", *CONFIG, "--workdir", tmp_path)
    assert "resuming from step " in done.stdout and noise(done.stderr) == []
    assert_same_state(tmp_path, whole, STEPS)
    assert metrics(tmp_path) == metrics(whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status", "told"), [(signal.SIGINT, 130, STOPPING), (signal.SIGTERM, 0, "stopping after this step")]
)
def test_ctrl_c_and_sigterm_save_and_end(
    number: int, status: int, told: str, whole: Path, tmp_path: Path, start: Start, run: Run
) -> None:
    with start("train", *CONFIG, "--workdir", tmp_path) as process:
        wait_for(process, lambda: (tmp_path / "metrics.jsonl").exists() and bool(metrics(tmp_path)))
        process.send_signal(number)
        out, err = process.communicate(timeout=100)
    assert process.returncode == status and noise(err) == [told]
    step = committed(tmp_path)[-1]
    assert f"stopped after step {step};" in out and (tmp_path / "report.html").exists()
    assert step < STEPS and metrics(tmp_path)[-1]["step"] == step
    run("train", *CONFIG, "--workdir", tmp_path)
    assert_same_state(tmp_path, whole, STEPS)
    assert metrics(tmp_path) == metrics(whole)


@pytest.mark.parametrize(("evaluation", "step"), [(1, 8), pytest.param(2, 16, marks=pytest.mark.slow)])
def test_told_to_stop_while_it_evaluates(evaluation: int, step: int, whole: Path, tmp_path: Path, run: Run) -> None:
    """By SIGTERM."""
    train = ("train", *CONFIG, f"--workdir={tmp_path}")
    done = run(evaluation, 0, *train, program=WHILE_IT_EVALUATES)
    assert noise(done.stderr) == ["stopping after this step"]
    assert f"stopped after step {step};" in done.stdout
    assert committed(tmp_path)[-1] == step and not (tmp_path / "evaluation" / f"{step}.json").exists()
    assert "all steps done" in run(*train).stdout
    assert_same_state(tmp_path, whole, STEPS)
    assert sorted(map(str, metrics(tmp_path))) == sorted(map(str, metrics(whole)))


def test_ctrl_c_before_the_first_step(tmp_path: Path, start: Start) -> None:
    with start("train", *CONFIG, "--workdir", tmp_path) as process:
        wait_for(process, lambda: (tmp_path / "tokenizer.model").exists())
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=100)
    assert process.returncode == 130 and noise(err) == [STOPPING]
    assert committed(tmp_path)


def test_what_is_done_is_not_done_again(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = [path for path in whole.rglob("*") if path.name not in ("report.html", "config.json")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    begin = time.perf_counter()
    assert main(["train", *CONFIG, f"--workdir={whole}"]) == 0
    assert time.perf_counter() - begin < 10
    out, err = capsys.readouterr()
    assert "scenes_direct: step 16 of 16 is done already; report: " in out and noise(err) == []
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_what_is_done_and_damaged_is_done_again(whole: Path, tmp_path: Path, run: Run) -> None:
    copy = shutil.copytree(whole, tmp_path / "copy")
    last = copy / "checkpoints" / "16" / "state"
    largest = max((path for path in last.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    done = run("train", *CONFIG, "--workdir", copy)
    assert f"{copy / 'checkpoints' / '16'}: is damaged (" in done.stderr and "all steps done" in done.stdout
    assert_same_state(copy, whole, 16)


def test_a_workdir_of_another_config_is_left_alone(whole: Path, mistake: Mistake) -> None:
    before = (whole / "config.json").read_bytes()
    line = mistake("train", *CONFIG, "--workdir", whole, "--config.model.width=64", "--config.seed=3")
    assert line == (
        f"--workdir {whole}: holds another config: model.width was 32 and now is 64, seed was 0 and now is 3; "
        "name another --workdir"
    )
    assert (whole / "config.json").read_bytes() == before


def test_a_config_that_could_not_start_can_be_mended(
    tmp_path: Path, mistake: Mistake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first try that fails binds the workdir to nothing."""

    def unsuitable(captions: Iterable[str], vocabulary: int) -> bytes:
        raise UserError(f"text.vocabulary: {vocabulary} does not suit")

    with monkeypatch.context() as patch:
        patch.setattr(data, "train_tokenizer", unsuitable)
        line = mistake("prepare", *CONFIG, "--workdir", tmp_path, "--config.text.vocabulary=301")
    assert line == "text.vocabulary: 301 does not suit"
    line = mistake("train", *CONFIG, "--workdir", tmp_path, "--config.train.batch=12")
    assert line == "train.batch: 12 does not split over 8 devices (mesh data x fsdp); take a multiple of 8"
    assert main(["prepare", *CONFIG, f"--workdir={tmp_path}"]) == 0


@pytest.mark.parametrize("step", ["0", "-3"])
def test_a_step_to_stop_at_that_is_none(tmp_path: Path, mistake: Mistake, step: str) -> None:
    line = mistake("train", *CONFIG, "--workdir", tmp_path / "run", "--stop-at", step)
    assert line == f"--stop-at {step}: must be a step from 1 on"
    assert not (tmp_path / "run").exists()


def test_less_than_is_done_changes_nothing(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (whole / "config.json").read_bytes()
    assert main(["train", *CONFIG, f"--workdir={whole}", "--config.train.steps=3"]) == 0
    assert "scenes_direct: step 16 of 3 is done already" in capsys.readouterr().out
    assert (whole / "config.json").read_bytes() == before


# Orbax leaves coroutines behind where a read fails.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
def test_another_batch_neither_repeats_nor_skips_an_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Epochs of 64: 3 steps of 8, then 16 a step, of which the checkpoint is damaged, then 8 again to the end."""
    batches, seen = data.training_batches, list[str]()

    def noted(*arguments: Any) -> Iterator[Batch]:
        with closing(batches(*arguments)) as made:  # type: ignore[type-var]
            for batch in made:
                seen.extend(batch["id"])
                yield batch

    monkeypatch.setattr(data, "training_batches", noted)

    def trained(batch: int, *more: str) -> tuple[list[str], Any]:
        """The ids of the examples that the steps saw, and the batches in config.json."""
        seen.clear()
        every = [f"--config.train.{name}" for name in ("steps=0", "epochs=2", "evaluate_every=0", "checkpoint_every=0")]
        assert main(["train", CONFIG[0], *every, f"--config.train.batch={batch}", f"--workdir={tmp_path}", *more]) == 0
        return list(seen), json.loads((tmp_path / "config.json").read_text())["batches"]

    first, told = trained(8, "--stop-at=3")
    assert told == [[0, 8]]
    then, told = trained(16, "--stop-at=5")
    assert told == [[0, 8], [3, 16]] and committed(tmp_path) == [3, 5]
    assert "64 examples, 10 steps, resuming from step 3" in capsys.readouterr().out
    assert len(first) == 24 and len(then) == 32 and len(set(first + then)) == 56
    assert json.loads((tmp_path / "evaluation" / "5.json").read_text())  # the end of the epoch

    for path in (tmp_path / "checkpoints" / "5" / "state" / "ocdbt.process_0" / "d").iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 50])
    again, told = trained(8)
    assert told == [[0, 8]] and committed(tmp_path)[-1] == 16
    assert "64 examples, 16 steps, resuming from step 3" in capsys.readouterr().out
    whole = first + again
    assert again[:32] == then and len(whole) == 128 and set(whole[:64]) == set(whole[64:]) and len(set(whole)) == 64
    trained(16)
    assert "step 16 of 16 is done already" in capsys.readouterr().out
    gc.collect()  # the coroutines, while they are ignored


@pytest.mark.slow
def test_an_evaluation_better_than_all_before_is_saved(tmp_path: Path, run: Run) -> None:
    settings = (
        "--config.train.best_metric=-loss",
        "--config.train.evaluate_every=3",
        "--config.train.checkpoint_every=16",
    )
    run("train", *CONFIG, *settings, "--workdir", tmp_path, "--config.train.max_to_keep=1", "--stop-at=9")
    losses = {row["step"]: row["loss"] for row in metrics(tmp_path) if row["split"] == "evaluation"}
    best = min(losses, key=lambda step: losses[step])
    assert committed(tmp_path) == sorted({best, 9})
    out = run("evaluate", "--workdir", tmp_path, "--step", "best").stdout
    assert f"scenes_direct, step {best}:" in out
    assert (
        f"scenes_direct, step {best}:"
        in run("export", "--workdir", tmp_path, "--out", tmp_path / "m", "--step=best").stdout
    )


def test_a_workdir_that_cannot_be_written(tmp_path: Path, mistake: Mistake) -> None:
    (tmp_path / "file").write_text("")
    line = mistake("train", *CONFIG, "--workdir", tmp_path / "file" / "run")
    assert line == f"--workdir {tmp_path}/file/run: cannot be written (Not a directory); name another folder"


def test_steps_that_are_not_finite_are_skipped_counted_and_end_the_training(tmp_path: Path, run: Run) -> None:
    """With this learning rate the first step moves the parameters so far that no later one is finite."""
    settings = ("--config.optimizer.learning_rate=1e14", "--config.train.max_nonfinite_steps=5",
                "--config.train.max_to_keep=20", "--config.train.checkpoint_every=1",
                "--config.evaluate.evaluators=losses")  # fmt: skip
    done = run("train", *CONFIG, *settings, "--workdir", tmp_path, status=2)
    lines = noise(done.stderr)
    assert len(lines) == 1 and lines[0].startswith("mmjax: step ")
    assert "5 consecutive steps (train.max_nonfinite_steps)" in lines[0]
    rows = metrics(tmp_path)
    skipped = [row["skipped_steps"] for row in rows if row["split"] == "train"]
    assert skipped[0] == 0 and skipped[-4:] == [1.0] * 4
    assert [row["loss"] is None for row in rows if row["split"] == "train"] == [bool(count) for count in skipped]
    assert committed(tmp_path)
    for step in committed(tmp_path)[:: len(committed(tmp_path)) - 1]:  # the first and the last one
        assert all(np.isfinite(leaf).all() for leaf in saved_state(tmp_path, step).values())
    mmjax.load(tmp_path)


@pytest.fixture(name="small_disk")
def limited_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def assert_told_and_nothing_lost(done: subprocess.CompletedProcess[str], workdir: Path, before: Path) -> None:
    lines = noise(done.stderr)
    assert len(lines) == 1 and lines[0].startswith(f"mmjax: {workdir}/"), done.stderr
    assert "No space left on device" in lines[0] or "File too large" in lines[0]
    assert committed(workdir) == committed(before)
    assert_same_state(workdir, before, committed(before)[-1])
    mmjax.load(workdir)


@pytest.mark.parametrize("room", [pytest.param(200_000, marks=pytest.mark.slow), 0])
def test_a_full_disk(room: int, whole: Path, earlier: Path, small_disk: Path, run: Run) -> None:
    workdir = Path(shutil.copytree(earlier, small_disk / "run"))
    disk = os.statvfs(small_disk)
    filling = small_disk / "filling"
    filling.write_bytes(bytes(disk.f_bavail * disk.f_frsize - room))
    done = run("train", *CONFIG, "--workdir", workdir, status=2)
    assert_told_and_nothing_lost(done, workdir, earlier)
    filling.unlink()
    run("train", *CONFIG, "--workdir", workdir)
    assert_same_state(workdir, whole, STEPS)


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written(whole: Path, half: Path, half_copy: Path, run: Run) -> None:
    """As on a full disk, but where no disk can be mounted."""
    done = run("train", *CONFIG, "--workdir", half_copy, status=2, largest_file=20)
    assert_told_and_nothing_lost(done, half_copy, half)
    run("train", *CONFIG, "--workdir", half_copy)
    assert_same_state(half_copy, whole, STEPS)
    assert metrics(half_copy) == metrics(whole)
