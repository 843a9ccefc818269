"""LoRA by the commands: trained from a finished quickstart, resumed, exported, and mixed when generating."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from runs import Mistake, assert_same_state
from safetensors.numpy import load_file, save_file

import mmjax
from mmjax.cli import main
from mmjax.export.load import load_params
from mmjax.export.model_folder import flatten
from mmjax.types import UserError


def write_images(root: Path) -> Path:
    folder = root / "train"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)).save(folder / f"{i}.png")
    lines = [json.dumps({"image": f"{i}.png", "captions": ["a zorp left of a red square"]}) for i in range(5)]
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return root


@pytest.fixture(name="command", scope="module")
def training_command(two_stages: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    images = write_images(tmp_path_factory.mktemp("zorp") / "images")
    return [
        "train",
        f"--config=configs/personalize.py:model={two_stages},tiny",
        f"--config.data.root={images}",
        "--config.optimizer.learning_rate=0.05",
    ]


@pytest.fixture(name="trained", scope="module")
def trained_lora(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("lora") / "run"
    assert main([*command, f"--workdir={workdir}"]) == 0
    return workdir


@pytest.fixture(name="alone", scope="module")
def exported_alone(trained: Path) -> Path:
    file = trained.with_name("word.safetensors")
    assert main(["export", f"--workdir={trained}", "--lora=alone", f"--out={file}"]) == 0
    return file


def params(path: Path, **lora: Any) -> dict[str, np.ndarray]:
    return flatten(jax.device_get(mmjax.load(path, **lora).params))


def assert_close(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, leaf in one.items():
        np.testing.assert_allclose(leaf, other[name], atol=1e-6, err_msg=name)


def test_the_file_holds_what_was_trained_and_nothing_else(two_stages: Path, trained: Path, alone: Path) -> None:
    before, after = params(two_stages), params(trained)
    changed = {name for name, leaf in after.items() if np.any(leaf != before[name])}
    assert changed and all("attention/" in name and name.endswith(("q/kernel", "v/kernel")) for name in changed)
    assert {name.rpartition("/")[0] for name in load_file(alone)} == changed
    assert (trained / "tokenizer.model").read_bytes() == (two_stages / "tokenizer.model").read_bytes()
    assert_close(params(two_stages, lora={alone: 1.0}), after)
    assert_close(flatten(load_params(trained)), after)  # as train.init_from reads it
    for name, leaf in params(two_stages, lora={alone: 0.0}).items():
        np.testing.assert_array_equal(leaf, before[name])


def test_several_are_mixed_by_weight(two_stages: Path, trained: Path, alone: Path, tmp_path: Path) -> None:
    other = shutil.copyfile(alone, tmp_path / "other.safetensors")
    assert_close(params(two_stages, lora={alone: 0.25, str(other): 0.75}), params(trained))


def test_merged_is_a_model_folder_like_any(trained: Path, tmp_path: Path) -> None:
    assert main(["export", f"--workdir={trained}", f"--out={tmp_path / 'model'}"]) == 0
    for name, leaf in params(tmp_path / "model").items():
        np.testing.assert_array_equal(leaf, params(trained)[name])


def test_resumed_it_is_the_same(command: list[str], trained: Path, tmp_path: Path) -> None:
    for stop in ("--stop-at=2", "--stop-at=4"):
        assert main([*command, f"--workdir={tmp_path / 'run'}", stop]) == 0
    assert_same_state(trained, tmp_path / "run", 4)


def test_generate_takes_files_and_weights(two_stages: Path, alone: Path, tmp_path: Path) -> None:
    out, given = tmp_path / "out.png", ["generate", f"--model={two_stages}", "--prompt", "a zorp left of a red square"]
    drawn = []
    for lora in ([], ["--lora", f"{alone}=0"], ["--lora", str(alone)]):
        assert main([*given, f"--out={out}", *lora]) == 0
        drawn.append(out.read_bytes())
    assert drawn[0] == drawn[1] != drawn[2]


def test_mistakes_are_one_line(two_stages: Path, trained: Path, alone: Path, tmp_path: Path, mistake: Mistake) -> None:
    given = ["generate", f"--model={two_stages}", "--prompt=a", f"--out={tmp_path / 'out.png'}", "--lora"]
    assert "nan" in mistake(*given, f"{alone}=nan")
    assert "'much'" in mistake(*given, f"{alone}=much")
    assert "twice" in mistake(*given, alone, f"{alone}=2")
    assert "no such file" in mistake(*given, tmp_path / "none.safetensors")
    assert "is a folder" in mistake(*given, trained)
    line = mistake("export", f"--workdir={two_stages}", "--lora=alone", f"--out={tmp_path / 'x.safetensors'}")
    assert line.startswith("--lora: ")
    assert ".safetensors" in mistake("export", f"--workdir={trained}", "--lora=alone", f"--out={tmp_path / 'x'}")
    base = trained / "base.safetensors"
    before = base.read_bytes()
    line = mistake("export", f"--workdir={trained}", "--lora=alone", f"--out={base}")
    assert line.startswith(f"{base}: ") and base.read_bytes() == before
    with pytest.raises(UserError, match="weight of"):
        mmjax.load(two_stages, lora={alone: float("inf")})


def test_a_lora_of_another_model_is_refused(two_stages: Path, trained: Path, alone: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was trained with another model"):
        mmjax.load(trained, lora={alone: 1.0})  # whose kernels are no longer those of the quickstart

    def changed(change: Any) -> str:
        from safetensors import safe_open

        with safe_open(alone, "numpy") as file:
            about = file.metadata()
        save_file(change(load_file(alone)), tmp_path / "changed.safetensors", about)
        with pytest.raises(UserError) as error:
            mmjax.load(two_stages, lora={tmp_path / "changed.safetensors": 1.0})
        assert "\n" not in str(error.value)
        return str(error.value)

    line = changed(lambda x: {key.replace("layers/", "levels/"): value for key, value in x.items()})
    assert "adds to levels/block/" in line and "which this model does not have" in line
    name = "layers/block/self_attention/q/kernel"
    assert name in changed(lambda x: x | {f"{name}/a": x[f"{name}/a"][..., :5]})  # of another rank
    assert "NaN" in changed(lambda x: x | {f"{name}/a": x[f"{name}/a"] * np.nan})
    assert name in changed(lambda x: {key: value for key, value in x.items() if key != f"{name}/b"})


def test_the_model_that_it_adds_to_must_be_there(trained: Path, tmp_path: Path, mistake: Mistake) -> None:
    copy = shutil.copytree(trained, tmp_path / "run")
    (copy / "base.safetensors").unlink()
    line = mistake("export", f"--workdir={copy}", f"--out={tmp_path / 'model'}")
    assert line.startswith(f"{copy / 'base.safetensors'}: no such file")


def test_patterns_are_checked_before_anything_is_trained(command: list[str], tmp_path: Path, mistake: Mistake) -> None:
    line = mistake(*command, f"--workdir={tmp_path / 'run'}", "--config.lora.kernels=**/mlp/kernel")
    assert line.startswith("lora.kernels: '**/mlp/kernel' matches no kernel") and "mlp_in/kernel" in line
    assert not (tmp_path / "run").exists()
