"""What belongs together stays together: checkpoints, their run and its tokenizer; weights; options and models."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import Mistake, Run
from safetensors import safe_open
from safetensors.numpy import save_file

import mmjax
from mmjax import data
from mmjax.config import PerceptualConfig
from mmjax.export import frozen_text
from mmjax.export.load import load_params, read_text_tokenizer
from mmjax.files import write_file
from mmjax.models import lpips
from mmjax.terminal import json_line
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


BAD = {
    "nan": lambda array: np.where(np.arange(array.size).reshape(array.shape) == 1, np.float32(np.nan), array),
    "beyond float32": lambda array: array.astype(np.float64) + 1e300,
    "int8": lambda array: array.astype(np.int8),
    "bool": lambda array: array.astype(np.bool_),
}


@pytest.mark.parametrize("kind", BAD)
def test_weights_of_a_perceptual_loss(kind: str, tmp_path: Path) -> None:
    save_file({"features.3.weight": BAD[kind](np.ones((3, 2), np.float32))}, tmp_path / "alex.safetensors")
    with pytest.raises(UserError, match=r"features\.3\.weight (is|holds)"):
        lpips.read(PerceptualConfig(str(tmp_path / "alex.safetensors")), 64)


@pytest.fixture(name="encoder", scope="module")
def text_encoder(finished: Path) -> frozen_text.FrozenText:
    return frozen_text.of_model(mmjax.load(finished))


@pytest.mark.parametrize("kind", BAD)
def test_weights_of_a_text_encoder(kind: str, encoder: frozen_text.FrozenText, tmp_path: Path) -> None:
    path = tmp_path / frozen_text.FILE
    frozen_text.write(path, encoder)
    with safe_open(path, "numpy") as file:
        about, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = max(arrays, key=lambda name: arrays[name].ndim)
    save_file(arrays | {name: np.ascontiguousarray(BAD[kind](arrays[name]))}, path, about)
    with pytest.raises(UserError, match=name):
        frozen_text.read(path)


@pytest.mark.parametrize("option", ["--guidance=nan", "--guidance=3", "--seed=1", "--steps=4", "--clip-frames=2"])
def test_options_that_a_direct_generator_does_not_take(
    option: str, finished: Path, tmp_path: Path, mistake: Mistake
) -> None:
    line = mistake(*arguments("generate", finished, tmp_path), f"--out={tmp_path / 'out.png'}", option)
    assert line.startswith(f"{option.partition('=')[0]}: ") and not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("name", ["there.png", "not/yet.png"])
def test_a_link_stays_a_link(name: str, tmp_path: Path) -> None:
    target, link = tmp_path / "elsewhere" / name, tmp_path / "link.png"
    link.symlink_to(target)
    for content in (b"one", b"two"):
        write_file(link, content)
        assert link.is_symlink() and target.read_bytes() == content
    assert not list(target.parent.glob(".*"))


@given(st.text())
def test_a_line_of_json_has_no_control_characters(name: str) -> None:
    line = json_line({"image": name + "\x1b[31m\x7f\x9b\u2028\n"})
    assert line.isprintable() and json.loads(line)["image"] == name + "\x1b[31m\x7f\x9b\u2028\n"
