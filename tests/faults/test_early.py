"""What the later stages and the end of a command need is checked before its first step."""

import shutil
from pathlib import Path

import pytest
from runs import Mistake

CONFIG = "--config=configs/quickstart.py:tiny"


@pytest.mark.parametrize("at", ["s3://bucket/run", "file:///tmp/run", "http://host/run", "ftp://host/run"])
@pytest.mark.parametrize("field", ["train.checkpoints", "tokens.cache"])
def test_places_of_other_schemes(field: str, at: str, mistake: Mistake, tmp_path: Path) -> None:
    line = mistake("train", CONFIG, f"--config.{field}={at}", "--workdir", tmp_path / "run")
    assert line.startswith(f"{field}: ") and at in line and not (tmp_path / "run").exists()
    nested = f"components.visual_tokenizer.config.{field}"
    line = mistake("train", CONFIG, f"--config.{nested}={at}", "--workdir", tmp_path / "run")
    assert line.startswith(f"{nested}: ") and at in line


@pytest.mark.parametrize("command", ["train", "prepare"])
def test_tokens_that_cannot_be_written(command: str, mistake: Mistake, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = tmp_path / "file" / "tokens"
    line = mistake(command, CONFIG, f"--config.tokens.cache={cache}", "--workdir", tmp_path / "run")
    assert line.startswith(f"{cache}/") and not (tmp_path / "run").exists()


@pytest.mark.parametrize("stage", ["", "visual_tokenizer"])
@pytest.mark.parametrize(
    "name", ["config.json/x", "metrics.jsonl/x", "report.html/x", "tokenizer.model/x", "tensorboard", "evaluation",
             "checkpoints", "checkpoints-damaged"]
)  # fmt: skip
def test_files_for_folders_and_folders_for_files(stage: str, name: str, mistake: Mistake, tmp_path: Path) -> None:
    place = tmp_path / stage / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch()
    line = mistake("train", CONFIG, "--workdir", tmp_path)
    assert line.startswith(f"{tmp_path / stage / name.partition('/')[0]}: ")
    assert sorted(tmp_path.rglob("*")) == sorted({place, place.parent, tmp_path / stage} - {tmp_path})  # left nothing


def test_steps_and_data_of_the_last_stage(mistake: Mistake, tmp_path: Path) -> None:
    arguments = ("train", CONFIG, "--workdir", tmp_path / "run")
    assert mistake(*arguments, "--config.optimizer.warmup_steps=9").startswith("optimizer.warmup_steps: 9 ")
    epochs = ("--config.train.steps=0", "--config.train.epochs=1", "--config.optimizer.warmup_steps=8")
    assert mistake(*arguments, *epochs).startswith("optimizer.warmup_steps: 8 ")  # of 64 / 8
    folder = ("--config.data.source=coco_folder", f"--config.data.root={tmp_path / 'none'}")
    evaluators = ("--config.evaluate.evaluators=losses", "--config.train.best_metric=")
    assert str(tmp_path / "none") in mistake(*arguments, *folder, *evaluators)
    assert not (tmp_path / "run").exists()


def test_a_vocabulary_too_small_for_the_captions_of_the_last_stage(
    images: Path, mistake: Mistake, tmp_path: Path
) -> None:
    """The first stage has other captions, or a larger vocabulary."""
    root = shutil.copytree(images, tmp_path / "coco")
    captions = root / "annotations" / "captions_train2017.json"
    signs = "".join(chr(0x4E00 + i) for i in range(200))
    captions.write_text(captions.read_text().replace('"caption": "', f'"caption": "{signs} '))
    config = (f"--config.data.root={root}", "--config.text.vocabulary=300", "--workdir", tmp_path / "run")
    larger = "--config.components.visual_tokenizer.config.text.vocabulary=600"
    line = mistake("train", "--config=configs/coco_masked.py:tiny", larger, *config)
    assert line.startswith("text.vocabulary: 300 ") and not (tmp_path / "run").exists()


def test_parameters_to_start_from_of_the_last_stage(finished: Path, mistake: Mistake, tmp_path: Path) -> None:
    line = mistake("train", CONFIG, f"--config.train.init_from={finished}", "--workdir", tmp_path / "run")
    assert line.startswith("train.init_from: ") and not (tmp_path / "run").exists()
