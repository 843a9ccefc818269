"""Captions of sounds by the commands: trained, evaluated with samples, exported; and models that take no sounds."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from runs import Mistake, metrics

import mmjax
from mmjax import data
from mmjax.cli import main

SOUNDS = ("data.source=audio_folder", "data.audio.seconds=0.64", "data.audio.bins=32", "data.flip=false")


@pytest.fixture(name="options", scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options for eight tones with a caption each."""
    root = tmp_path_factory.mktemp("sounds")
    for split in ("train", "validation"):
        (root / split).mkdir()
        lines = []
        for n in range(8):
            tone = 0.3 * np.sin(np.arange(12_000) * 2 * np.pi * 200 * (n + 1) / 16_000)
            soundfile.write(root / split / f"{n}.wav", tone, 16_000)
            lines.append(json.dumps({"sound": f"{n}.wav", "captions": [f"tone number {n}"]}))
        (root / split / "captions.jsonl").write_text("\n".join(lines) + "\n")
    return [f"--config.{field}" for field in (*SOUNDS, f"data.root={root}", "train.batch=8", "evaluate.batch=8")]


def test_captions_of_sounds(options: list[str], tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "model"
    assert main(["train", "--config=configs/coco_caption.py:tiny", *options, f"--workdir={run}"]) == 0
    assert metrics(run)[-1]["step"] == 4
    with Image.open(run / "evaluation" / "4.samples.png") as shown:  # spectrograms, in grey
        pixels = np.asarray(shown)
    assert pixels.ndim == 3 and np.ptp(pixels) > 100 and (pixels == pixels[..., :1]).all()
    assert "data:image/png;base64," in (run / "report.html").read_text()
    assert main(["export", f"--workdir={run}", f"--out={out}"]) == 0
    root = Path(options[4].partition("=")[2])
    sound = data.read_sound(root / "validation" / "3.wav", seconds=0.64, bins=32)
    assert isinstance(mmjax.load(out).caption(sound[None])[0], str)


@pytest.mark.parametrize("config", ["coco_tokenizer", "coco_direct"])
def test_models_that_take_no_sounds(config: str, options: list[str], tmp_path: Path, mistake: Mistake) -> None:
    line = mistake("train", f"--config=configs/{config}.py:tiny", *options, f"--workdir={tmp_path / 'run'}")
    assert line.startswith("data.source: audio_folder ")
    assert not (tmp_path / "run").exists()
