"""metrics.jsonl: complete lines, and none of steps that will be repeated."""

import importlib.machinery
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmjax.files import read_lines
from mmjax.train.metrics import Metrics, check_wandb
from mmjax.types import UserError


def test_nonfinite_values_are_written_as_null(tmp_path):
    metrics = Metrics(tmp_path, 0)
    metrics.write(1, "train", {"loss": 0.5, "psnr": float("inf")})
    metrics.close()
    assert list(read_lines(tmp_path / "metrics.jsonl")) == [{"step": 1, "split": "train", "loss": 0.5, "psnr": None}]
    assert list((tmp_path / "tensorboard").iterdir())


def test_lines_after_the_resumed_step_are_dropped(tmp_path):
    lines = [json.dumps({"step": step, "split": "train", "loss": 1.0}) for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 4, "spl')
    metrics = Metrics(tmp_path, 2)
    metrics.write(3, "train", {"loss": 2.0})
    metrics.close()
    assert [(row["step"], row["loss"]) for row in read_lines(tmp_path / "metrics.jsonl")] == [
        (1, 1.0),
        (2, 1.0),
        (3, 2.0),
    ]


def test_lines_without_a_step_are_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"loss": 1.0}\n{"step": "2"}\n{"step": null}\n')
    Metrics(tmp_path, 2).close()
    assert list(read_lines(tmp_path / "metrics.jsonl")) == [{"step": 1, "loss": 2.0}]


def test_other_processes_than_the_primary_one_write_nothing(tmp_path):
    metrics = Metrics(tmp_path, 3, "project", writes=False)
    metrics.write(4, "train", {"loss": 2.0, "psnr": float("inf")})
    metrics.write_time(4, {"steps": 1.0})
    metrics.close()
    assert not list(tmp_path.iterdir())


class StubRun:
    """What a run of Weights & Biases was given."""

    def __init__(self, **settings: Any):
        self.settings = settings
        self.logged: list[tuple[dict[str, Any], int]] = []
        self.finished = False

    def log(self, metrics: dict[str, Any], step: int) -> None:
        self.logged.append((metrics, step))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture(name="wandb_runs")
def stub_wandb(monkeypatch: pytest.MonkeyPatch) -> list[StubRun]:
    runs: list[StubRun] = []

    def init(**settings: Any) -> StubRun:
        runs.append(StubRun(**settings))
        return runs[-1]

    stub = types.ModuleType("wandb")
    stub.__spec__ = importlib.machinery.ModuleSpec("wandb", None, origin="stub")
    stub.init, stub.Image = init, lambda image: ("image", image.tolist())  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", stub)
    return runs


def test_wandb_resumes_the_same_run(tmp_path: Path, wandb_runs: list[StubRun]):
    image = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    for start in (0, 3):
        metrics = Metrics(tmp_path, start, "project", {"seed": 7})
        metrics.write(start + 1, "train", {"loss": 0.5})
        metrics.write_image(start + 1, "samples", image)
        metrics.close()
    Metrics(tmp_path / "other", 0, "project", {}).close()
    first, second, other = wandb_runs
    assert first.settings == {"project": "project", "dir": str(tmp_path), "config": {"seed": 7}, "resume": "allow",
                              "id": first.settings["id"]}  # fmt: skip
    assert first.settings["id"] == second.settings["id"] != other.settings["id"]
    assert first.logged == [({"train/loss": 0.5}, 1), ({"samples": ("image", image.tolist())}, 1)]
    assert first.finished and second.logged[0] == ({"train/loss": 0.5}, 4)


def test_middle_frame_of_a_clip_is_written(tmp_path: Path, wandb_runs: list[StubRun]):
    clip = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), np.uint8)
    metrics = Metrics(tmp_path, 0, "project", {})
    metrics.write_image(1, "samples", clip)
    metrics.close()
    assert wandb_runs[0].logged == [({"samples": ("image", clip[1].tolist())}, 1)]


def test_wandb_start_error_is_one_line(tmp_path: Path, wandb_runs: list[StubRun], monkeypatch):
    def refused(**settings: Any) -> None:
        raise RuntimeError("api_key not configured\n(no tty)")

    monkeypatch.setattr(sys.modules["wandb"], "init", refused)
    (tmp_path / "metrics.jsonl").write_text('{"step": 9}\n')
    with pytest.raises(UserError, match=r"^train.wandb_project: .* \(api_key not configured \(no tty\)\); run wandb"):
        Metrics(tmp_path, 2, "project")
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 9}\n'


def test_missing_wandb_is_reported_at_the_start(tmp_path: Path, wandb_runs: list[StubRun], monkeypatch):
    check_wandb("project")
    missing = r"^train.wandb_project: wandb is not installed; run pip install '\.\[wandb\]'"
    monkeypatch.setitem(sys.modules, "wandb", None)
    check_wandb("")
    with pytest.raises(UserError, match=missing):
        check_wandb("project")
    with pytest.raises(UserError, match=missing):
        Metrics(tmp_path, 0, "project")
    # A folder that wandb left where it was run before is no wandb.
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UserError, match=missing):
        check_wandb("project")
