"""LoRAs in PEFT's layout, against PEFT's formula on the tensors of the checkpoint: W + alpha / r * B A."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import mmjax
from mmjax import pretrained
from mmjax.export.lora import with_loras
from mmjax.export.model_folder import flatten
from mmjax.types import UserError

REFERENCES = Path(__file__).parents[1] / "references"
TARGETS = {
    "clip": r"(text|vision)_model\.encoder\.layers\.\d+\.(self_attn\.(q|v|out)_proj|mlp\.fc1)|text_projection",
    "bert": r"encoder\.layer\.1\.attention\.(self\.query|output\.dense)",
    "t5_gated": r"encoder\.block\.\d+\.layer\.\d\.(SelfAttention\.(q|o)|DenseReluDense\.wi_0)",
}
RANK, ALPHA = 2, 3.0


def write_adapter(folder: Path, name: str, rank: int = RANK, **settings: Any) -> dict[str, np.ndarray]:
    """Writes a LoRA of random numbers as PEFT does; returns its additions to tensors by name."""
    rng, tensors, additions = np.random.default_rng(0), {}, {}
    for tensor, value in load_file(REFERENCES / name / "model.safetensors").items():
        module = tensor.removesuffix(".weight")
        if tensor.endswith(".weight") and re.fullmatch(TARGETS[name], module):
            a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((rank, value.shape[1]), (len(value), rank)))
            tensors |= {f"base_model.model.{module}.lora_A.weight": a, f"base_model.model.{module}.lora_B.weight": b}
            additions[tensor] = ALPHA / rank * b @ a
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    values = {"peft_type": "LORA", "r": rank, "lora_alpha": ALPHA, "bias": "none", "target_modules": ["q_proj"]}
    values |= {"modules_to_save": None, "use_dora": False, "rank_pattern": {}, "lora_dropout": 0.1}
    (folder / "adapter_config.json").write_text(json.dumps(values | settings))
    return additions


@pytest.mark.parametrize("name", list(TARGETS))
def test_reading_is_adding_to_the_tensors(name: str, tmp_path: Path) -> None:
    additions = write_adapter(tmp_path / "lora", name)
    assert len(additions) > 1
    checkpoint = pretrained.open_checkpoint(REFERENCES / name)
    found = with_loras(pretrained.load(checkpoint), {tmp_path / "lora": 0.5}, checkpoint)
    added = shutil.copytree(REFERENCES / name, tmp_path / "added")
    tensors = load_file(added / "model.safetensors")
    for tensor, addition in additions.items():
        tensors[tensor] = (tensors[tensor] + 0.5 * addition).astype(np.float32)
    save_file(tensors, added / "model.safetensors")
    expected = pretrained.load(pretrained.open_checkpoint(added))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected)


def test_writing_gives_what_was_read(tmp_path: Path) -> None:
    write_adapter(tmp_path / "lora", "clip")
    checkpoint = pretrained.open_checkpoint(REFERENCES / "clip")
    added, scale = pretrained.read_peft(tmp_path / "lora", checkpoint)
    pretrained.write_peft(tmp_path / "again", checkpoint, added, scale * RANK)
    one, two = (load_file(tmp_path / each / "adapter_model.safetensors") for each in ("lora", "again"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        np.testing.assert_array_equal(tensor, two[name])
    settings = json.loads((tmp_path / "again" / "adapter_config.json").read_text())
    assert (settings["peft_type"], settings["r"], settings["lora_alpha"]) == ("LORA", RANK, ALPHA)
    assert {f"base_model.model.{name}.lora_A.weight" for name in settings["target_modules"]} < two.keys()


def test_prefixes_of_other_heads_and_rslora(tmp_path: Path) -> None:
    write_adapter(tmp_path / "lora", "bert", use_rslora=True)
    file = tmp_path / "lora" / "adapter_model.safetensors"
    save_file({name.replace("model.encoder", "model.bert.encoder"): x for name, x in load_file(file).items()}, file)
    checkpoint = pretrained.open_checkpoint(REFERENCES / "bert")
    added, scale = pretrained.read_peft(tmp_path / "lora", checkpoint)
    assert scale == pytest.approx(ALPHA / RANK**0.5)
    first = next(leaf for name, leaf in flatten(added).items() if name.endswith("/b"))
    assert not first[0].any() and first[1].any()  # there is none for the first layer


def test_load_adds_it(tmp_path: Path) -> None:
    write_adapter(tmp_path / "lora", "clip")
    model, other = (mmjax.load(REFERENCES / "clip", lora=lora) for lora in ({tmp_path / "lora": 1.0}, None))
    changed = {name for name, leaf in flatten(model.params).items() if np.any(leaf != flatten(other.params)[name])}
    assert {name.split("/")[-2] for name in changed} == {"q", "v", "out", "mlp_in", "projection"}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"use_dora": True}, "use_dora: True is not supported"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern: "),
        ({"peft_type": "IA3"}, "peft_type: 'IA3'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: 'pissa'"),
        ({"bias": "all"}, "bias: 'all'"),
        ({"r": 0}, "r, lora_alpha: "),
        ({"lora_alpha": float("nan")}, "r, lora_alpha: "),
    ],
)
def test_options_that_are_not_supported(settings: dict[str, Any], named: str, tmp_path: Path) -> None:
    write_adapter(tmp_path / "lora", "bert", **settings)
    with pytest.raises(UserError) as error:
        pretrained.read_peft(tmp_path / "lora", pretrained.open_checkpoint(REFERENCES / "bert"))
    assert f"adapter_config.json: {named}" in str(error.value) and "\n" not in str(error.value)


def test_tensors_of_another_model_rank_or_none(tmp_path: Path) -> None:
    def problem(change: Any) -> str:
        write_adapter(tmp_path / "lora", "bert")
        file = tmp_path / "lora" / "adapter_model.safetensors"
        save_file(change(load_file(file)), file)
        with pytest.raises(UserError) as error:
            mmjax.load(REFERENCES / "bert", lora={tmp_path / "lora": 1.0})
        assert "\n" not in str(error.value)
        return str(error.value)

    query = "base_model.model.encoder.layer.1.attention.self.query"
    assert "encoder.layer.7" in problem(lambda x: {n.replace("layer.1", "layer.7"): v for n, v in x.items()})
    assert f"{query}.magnitude" in problem(lambda x: x | {f"{query}.magnitude": np.ones(3, np.float32)})
    wrong = problem(lambda x: x | {f"{query}.lora_A.weight": np.ones((3, 5), np.float32)})
    assert "encoder.layer.1.attention.self.query, [3, 5] and" in wrong
    assert "None" in problem(lambda x: {n: v for n, v in x.items() if n != f"{query}.lora_B.weight"})
    assert "NaN" in problem(lambda x: x | {f"{query}.lora_A.weight": x[f"{query}.lora_A.weight"] * np.nan})
    assert "holds no LoRA" in problem(lambda x: {})
    (tmp_path / "lora" / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no adapter_model\.safetensors"):
        mmjax.load(REFERENCES / "bert", lora={tmp_path / "lora": 1.0})
