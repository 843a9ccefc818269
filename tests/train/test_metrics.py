"""metrics.jsonl: whole lines, and none of steps that are to be done again."""

import json

from mmjax.files import read_lines
from mmjax.train.metrics import Metrics


def test_writes_lines_and_null_for_what_is_not_finite(tmp_path):
    metrics = Metrics(tmp_path, 0)
    metrics.write(1, "train", {"loss": 0.5, "psnr": float("inf")})
    metrics.close()
    assert list(read_lines(tmp_path / "metrics.jsonl")) == [{"step": 1, "split": "train", "loss": 0.5, "psnr": None}]
    assert list((tmp_path / "tensorboard").iterdir())


def test_lines_after_the_step_to_go_on_from_are_dropped(tmp_path):
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
