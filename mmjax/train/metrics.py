"""Figures written as training goes: metrics.jsonl, TensorBoard and, where asked for, Weights & Biases."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

from mmjax.files import read_lines, write_file
from mmjax.types import UserError


class Metrics:
    """Writes figures of a workdir. Lines of steps after `start`, left by a run that was killed, are dropped first."""

    def __init__(self, workdir: Path, start: int, wandb_project: str = "", recipe: Mapping[str, Any] | None = None):
        self.path = workdir / "metrics.jsonl"
        _drop_after(self.path, start)
        self.file = open(self.path, "a", encoding="utf-8")
        self.board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1 if start else None)
        self.wandb = _wandb_run(wandb_project, workdir, recipe) if wandb_project else None

    def write(self, step: int, split: str, figures: Mapping[str, float]) -> None:
        """One line of metrics.jsonl; a figure that is not finite is written as null."""
        line = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        self.file.write(json.dumps({"step": step, "split": split, **line}) + "\n")
        self.file.flush()
        for name, value in figures.items():
            if math.isfinite(value):
                self.board.add_scalar(f"{split}/{name}", value, step)
        if self.wandb:
            self.wandb.log({f"{split}/{name}": value for name, value in figures.items()}, step=step)

    def write_picture(self, step: int, name: str, picture: np.ndarray) -> None:
        """A picture, uint8 [y, x, c], to TensorBoard."""
        self.board.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        self.file.close()
        self.board.close()
        if self.wandb:
            self.wandb.finish()


def _drop_after(path: Path, step: int) -> None:
    rows = (row for row in read_lines(path) if row["step"] <= step)
    write_file(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def _wandb_run(project: str, workdir: Path, recipe: Mapping[str, Any] | None) -> Any:
    try:
        import wandb
    except ImportError:
        raise UserError("train.wandb_project: wandb is not installed; run pip install 'mmjax[wandb]'") from None
    return wandb.init(project=project, dir=str(workdir), config=dict(recipe or {}), resume="allow")
