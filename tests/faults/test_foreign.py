"""What belongs together stays together: a checkpoint, its config, its examples, its tokenizer; weights and theirs."""

import json
from pathlib import Path
from typing import Any

import pytest
from runs import Mistake, Run

from mmjax import data
from mmjax.export.load import load_params, read_text_tokenizer
from mmjax.types import UserError

CONFIG = "--config=configs/coco_direct.py:tiny"
READERS = ("train", "evaluate", "export", "generate")


def arguments(command: str, workdir: Path, images: Path) -> list[Any]:
    return {
        "train": ["train", CONFIG, f"--config.data.root={images}", "--config.train.steps=6", "--workdir", workdir],
        "evaluate": ["evaluate", "--workdir", workdir],
        "export": ["export", "--workdir", workdir, "--out", workdir.with_name("out")],
        "generate": ["generate", "--model", workdir, "--prompt", "a", "--out", workdir.with_name("out.png")],
    }[command]


@pytest.fixture(name="tokenizer")
def another_tokenizer(workdir: Path) -> bytes:
    """One that is smaller than that of the workdir."""
    other = data.train_tokenizer(["another text"], 320)
    assert data.load_tokenizer(other).size < data.load_tokenizer(workdir / "tokenizer.model").size
    return other


@pytest.mark.parametrize("command", READERS)
def test_checkpoints_of_another_run(command: str, workdir: Path, images: Path, mistake: Mistake) -> None:
    path = workdir / "checkpoints" / "4" / "run" / "metadata"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, "config": {**saved["config"], "seed": 1}}))
    line = mistake(*arguments(command, workdir, images))
    assert line.startswith(f"{workdir / 'checkpoints' / '4'}: ") and "seed was 1 and now is 0" in line
    assert (workdir / "checkpoints" / "4").exists() and not workdir.with_name("out").exists()


@pytest.mark.parametrize("command", READERS)
def test_a_tokenizer_of_another_run(
    command: str, tokenizer: bytes, workdir: Path, images: Path, mistake: Mistake
) -> None:
    (workdir / "tokenizer.model").write_bytes(tokenizer)
    line = mistake(*arguments(command, workdir, images))
    assert line.startswith(f"{workdir / 'checkpoints' / '4'}: ") and "tokenizer was " in line
    with pytest.raises(UserError, match="tokenizer was "):  # what initializes a training
        load_params(workdir)


@pytest.mark.parametrize("option", ["--config.optimizer.learning_rate=0.5", "--config.train.log_every=3"])
def test_a_config_that_is_gone(option: str, workdir: Path, images: Path, mistake: Mistake) -> None:
    (workdir / "config.json").unlink()
    assert f"{workdir}: has checkpoints, but its config.json is gone" in mistake(
        *arguments("train", workdir, images), option
    )
    assert not (workdir / "config.json").exists()


def test_a_config_of_another_run(workdir: Path, images: Path, mistake: Mistake) -> None:
    path = workdir / "config.json"
    path.write_text(path.read_text().replace('"learning_rate": 0.001', '"learning_rate": 0.5'))
    line = mistake(*arguments("train", workdir, images), "--config.optimizer.learning_rate=0.5")
    assert line.startswith(f"{workdir / 'checkpoints' / '4'}: ")
    assert "optimizer.learning_rate was 0.001 and now is 0.5" in line


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"{}", b'{"config": 1}', b"\xff", b"[" * 100_000])
def test_a_damaged_identity_is_left_out(
    content: bytes, workdir: Path, mistake: Mistake, caplog: pytest.LogCaptureFixture
) -> None:
    (workdir / "checkpoints" / "4" / "run" / "metadata").write_bytes(content)
    assert load_params(workdir)
    (told,) = caplog.messages
    assert f"{workdir}/checkpoints/4/run: " in told and "\n" not in told


def test_a_model_folder_with_the_tokenizer_of_another(
    tokenizer: bytes, workdir: Path, images: Path, mistake: Mistake, run: Run
) -> None:
    run(*arguments("export", workdir, images))
    folder = workdir.with_name("out")
    told = f"{folder / 'tokenizer.model'}: is not the one of model.safetensors"
    (folder / "tokenizer.model").write_bytes(tokenizer)
    assert told in mistake(*arguments("generate", folder, images))
    with pytest.raises(UserError, match="is not the one"):  # what initializes a training
        read_text_tokenizer(folder)
