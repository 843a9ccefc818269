"""mmjax inspect."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from mmjax.cli import main

REFERENCES = Path(__file__).parents[1] / "references"


def rows(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What was printed, by the first word of each line."""
    lines = capsys.readouterr().out.splitlines()
    return {line.split()[0]: line.partition(" ")[2].strip() for line in lines}


def test_a_pretrained_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(REFERENCES / "clip", folder)
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# license: none\n")
    (folder / "preprocessor_config.json").write_text((REFERENCES / "images/clip/preprocessor_config.json").read_text())
    assert main(["inspect", str(folder)]) == 0
    told = rows(capsys)
    assert told["family"] == "CLIP (model_type clip)" and told["license"].startswith("mit")
    assert "vocab_size=37" in told["text"] and "patch_size=4" in told["vision"]
    count = sum(tensor.size for tensor in load_file(folder / "model.safetensors").values())
    assert told["weights"].startswith(f"{count:,} parameters") and "F32" in told["weights"]
    assert "shorter side 24 (bicubic); cropped to 19 x 19" in told["images"]
    assert "tokenizer.json: no such file" in told["tokenizer"] and "classify" in told["use"]
    assert told["component"].split(", ")[1] == f"--config.components.vision_encoder={folder}"


def test_what_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, word in ((tmp_path / "none", "no such folder"), (tmp_path, "no config.json")):
        assert main(["inspect", str(folder)]) == 2
        assert word in capsys.readouterr().err
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert main(["inspect", str(tmp_path)]) == 2
    assert "llama" in capsys.readouterr().err
