"""Training metrics: metrics.jsonl, TensorBoard and optionally Weights & Biases."""

import importlib.util
import json
import math
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter

from mmjax.files import read_lines, write_file
from mmjax.train.timeline import SPLIT
from mmjax.types import UserError


class Metrics:
    """Writes the metrics of a workdir. Lines after step `start`, left by an interrupted run, are dropped first.

    Of several processes only the primary one writes, which is told by `writes`.
    """

    def __init__(
        self,
        workdir: Path,
        start: int,
        wandb_project: str = "",
        config_dict: Mapping[str, Any] | None = None,
        writes: bool = True,
    ):
        path = workdir / "metrics.jsonl" if writes else Path(os.devnull)
        self.wandb = _wandb_run(wandb_project, workdir, config_dict) if wandb_project and writes else None
        if writes:
            rows = (row for row in read_lines(path) if isinstance(row.get("step"), int) and row["step"] <= start)
            write_file(path, "".join(json.dumps(row) + "\n" for row in rows).encode())
        self.file = open(path, "a", encoding="utf-8")
        purge = start + 1 if start else None
        self.board = SummaryWriter(str(workdir / "tensorboard"), purge_step=purge, write_to_disk=writes)

    def write(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        """Writes one line of metrics.jsonl; a non-finite value becomes null."""
        self._write_line(step, split, metrics)
        for name, value in metrics.items():
            if math.isfinite(value):
                self.board.add_scalar(f"{split}/{name}", value, step)
        if self.wandb:
            self.wandb.log({f"{split}/{name}": value for name, value in metrics.items()}, step=step)

    def write_time(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes a line of the time accounting to metrics.jsonl only; see timeline."""
        self._write_line(step, SPLIT, metrics)

    def _write_line(self, step: int, split: str, metrics: Mapping[str, float]) -> None:
        line = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self.file.write(json.dumps({"step": step, "split": split, **line}) + "\n")
        self.file.flush()

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes an image, uint8 [y, x, c], or a clip's middle frame, [f, y, x, c], to TensorBoard and W&B."""
        image = image[len(image) // 2] if image.ndim == 4 else image
        self.board.add_image(name, image, step, dataformats="HWC")
        if self.wandb:
            import wandb  # slow to import, and an extra

            self.wandb.log({name: wandb.Image(image)}, step=step)

    def close(self) -> None:
        self.file.close()
        self.board.close()
        if self.wandb:
            self.wandb.finish()


def check_wandb(project: str) -> None:
    """Raises UserError if train.wandb_project is set and wandb is not installed; imports nothing."""
    found = importlib.util.find_spec("wandb") if project else None
    # wandb leaves a folder "wandb" behind, which is a namespace package: found, but without an origin.
    if project and (found is None or found.origin is None):
        raise UserError("train.wandb_project: wandb is not installed; run pip install '.[wandb]', or leave it empty")


def _wandb_run(project: str, workdir: Path, config_dict: Mapping[str, Any] | None) -> Any:
    """The workdir's run; its id is kept in WORKDIR/wandb/run_id, so that a resumed run is the same run there."""
    check_wandb(project)
    import wandb

    path = workdir / "wandb" / "run_id"
    if not path.exists():
        write_file(path, uuid.uuid4().hex[:8].encode())
    run_id = path.read_text(encoding="utf-8").strip()
    try:
        return wandb.init(project=project, dir=str(workdir), config=dict(config_dict or {}), id=run_id, resume="allow")
    except Exception as error:  # login, network, names: each has its own type
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"train.wandb_project: Weights & Biases cannot be started ({reason}); run wandb login, set "
            "WANDB_MODE=offline, or leave train.wandb_project empty"
        ) from error
