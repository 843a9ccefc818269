"""A config that is trained first, and whose parameters the training then starts from."""

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import mmjax
from mmjax.cli import main

CONFIG = """
from copy import deepcopy
from ml_collections import ConfigDict

def get_config(argument=None):
    config = ConfigDict()
    config.data = {"source": "scenes", "size": 32, "frames": 3, "evaluation_examples": 8, "scenes": {"examples": 16}}
    config.text = {"length": 7, "vocabulary": 400}
    config.model = {"kind": "visual_tokenizer", "widths": (8, 8), "time_strides": (1, 2), "blocks": 0, "levels": (3, 3)}
    config.train = {"batch": 8, "steps": 1, "best_metric": ""}
    config.evaluate = {"batch": 8, "evaluators": ("losses",)}
    config.optimizer = {"learning_rate": 1e-12}
    config.pretraining = deepcopy(config)
    config.pretraining.data.frames = 1
    config.pretraining.optimizer.learning_rate = 1e-2
    return config
"""


@pytest.fixture(name="config_dict")
def config_of_two_trainings(tmp_path: Path) -> str:
    (tmp_path / "config.py").write_text(CONFIG)
    return f"--config={tmp_path / 'config.py'}"


def test_training_starts_where_the_pretraining_ended(
    config_dict: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "run"
    arguments = ["train", config_dict, f"--workdir={workdir}"]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert told.index("config-pretraining: all steps done") < told.index("config: all steps done")
    first, then = mmjax.load(workdir / "pretraining"), mmjax.load(workdir)
    assert (first.config.data.frames, then.config.data.frames) == (1, 3)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), first.params, then.params)
    shutil.rmtree(workdir / "pretraining")  # no longer needed
    assert main([*arguments, "--config.train.steps=2"]) == 0
    assert "pretraining" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--config.train.init_from=somewhere"], "pretraining: is what training starts from, and so is train.init"),
        (["--config.model.blocks=1"], "pretraining.model: must be that of the config itself"),
        (["--config.pretraining.train.batch=0"], "pretraining.train.batch: must be above 0"),
    ],
)
def test_contradictions_are_told_before_anything_is_trained(
    config_dict: str, changes: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", config_dict, f"--workdir={tmp_path / 'run'}", *changes]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
