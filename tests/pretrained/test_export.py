"""mmjax export --formats=hugging_face: what comes back, what is named, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from folders import PIXELS, REFERENCES, TOKENIZERS, copied
from safetensors.numpy import load_file, save_file

import mmjax
from mmjax import pretrained
from mmjax.cli import main

BESIDE = {
    "LICENSE.txt": "MIT",
    "NOTICE": "of others",
    "README.md": "---\nlicense: mit\n---\n",
    "preprocessor_config.json": json.dumps(PIXELS, indent=4),
}


@pytest.mark.parametrize("name", sorted(TOKENIZERS))
def test_everything_comes_back_byte_for_byte(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = copied(tmp_path, name), tmp_path / "out"
    for file, content in BESIDE.items():
        (folder / file).write_text(content)
    assert main(["export", f"--workdir={folder}", "--formats=hugging_face", f"--out={out}"]) == 0
    assert capsys.readouterr().out.endswith(f": {out}\n")
    written = {path.name for path in out.iterdir()}
    assert written == {path.name for path in folder.iterdir()} - {"reference.safetensors"}
    for file in written - {"model.safetensors"}:
        assert (out / file).read_bytes() == (folder / file).read_bytes()
    one, other = (load_file(path / "model.safetensors") for path in (folder, out))
    assert one.keys() == other.keys()
    for key in one:
        assert one[key].dtype == other[key].dtype
        np.testing.assert_array_equal(one[key], other[key])
    mmjax.load(out)
    assert main(["export", f"--workdir={folder}", "--formats=hugging_face", f"--out={out}"]) == 2  # nothing is replaced


@pytest.mark.parametrize(
    ("name", "tensor", "had", "has"),
    [
        ("bert", "cls.predictions.bias", "BertForMaskedLM", "BertModel"),
        ("t5", "lm_head.weight", "T5ForConditionalGeneration", "T5EncoderModel"),
        ("dinov2", "classifier.weight", "Dinov2ForImageClassification", "Dinov2Model"),
    ],
)
def test_the_class_is_that_of_what_is_written(
    name: str, tensor: str, had: str, has: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / name, tmp_path / "out"
    folder.mkdir()
    settings = json.loads((REFERENCES / name / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"architectures": [had]}))
    tensors = load_file(REFERENCES / name / "model.safetensors")
    save_file(tensors | {tensor: np.zeros((3, 5), np.float32)}, folder / "model.safetensors")
    assert main(["export", f"--workdir={folder}", "--formats=hugging_face", f"--out={out}"]) == 0
    assert f"left out: {tensor}" in capsys.readouterr().out
    assert json.loads((out / "config.json").read_text()) == settings | {"architectures": [has]}
    assert load_file(out / "model.safetensors").keys() == tensors.keys()


@pytest.mark.parametrize(
    "name", [*TOKENIZERS, "clip_vision", "dinov2", "dinov2_with_registers", "vit", "vit_classifier"]
)
def test_the_class_of_a_family(name: str) -> None:
    """transformers wrote the references."""
    checkpoint = pretrained.open_checkpoint(REFERENCES / name)
    assert checkpoint.spec.architecture is not None
    assert [checkpoint.spec.architecture(checkpoint.config)] == checkpoint.settings["architectures"]


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = copied(tmp_path, "bert")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    for arguments, word in (
        ([f"--workdir={folder}", f"--out={tmp_path / 'out'}"], "--formats=hugging_face"),
        ([f"--workdir={folder}", "--formats=hugging_face", f"--out={folder}"], "that is read"),
        ([f"--workdir={folder}", "--formats=hugging_face", f"--out={tmp_path / 'full'}"], "is not empty"),
        (
            [f"--workdir={folder}", "--formats=hugging_face", "--step=3", f"--out={tmp_path / 'out'}"],
            "is of a training",
        ),
        ([f"--workdir={tmp_path}", "--formats=hugging_face", f"--out={tmp_path / 'out'}"], "no config.json there"),
    ):
        assert main(["export", *arguments]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and word in lines[0]
    assert not (tmp_path / "out").exists()
