"""Checkpoints: round trips, sharding on arrival, and what is wrong with folders."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from safetensors.numpy import load_file, save_file

from mmjax import pretrained
from mmjax.parallel.mesh import AXES, match_rules
from mmjax.types import UserError

REFERENCES = Path(__file__).parents[1] / "references"
FOLDERS = sorted(path.parent.name for path in REFERENCES.glob("*/config.json"))
Tensors = dict[str, np.ndarray]


def copied(tmp_path: Path, name: str, change: Callable[[Tensors], Tensors] | None = None, **settings: Any) -> Path:
    """A copy of a folder with other tensors and settings."""
    folder = tmp_path / name
    shutil.copytree(REFERENCES / name, folder, ignore=shutil.ignore_patterns("reference.safetensors"))
    if change:
        save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | settings))
    return folder


def assert_same(one: Path, other: Path) -> None:
    """That two files hold the same tensors, bit for bit."""
    first, second = (dict(np.load(path)) if path.suffix == ".npz" else load_file(path) for path in (one, other))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype and tensor.shape == second[name].shape
        assert tensor.tobytes() == second[name].tobytes(), name


def round_trip(folder: Path, out: Path) -> None:
    checkpoint = pretrained.open_checkpoint(folder)
    pretrained.write(out, checkpoint, pretrained.load(checkpoint))
    assert json.loads((out / "config.json").read_text()) == json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("name", FOLDERS)
def test_round_trip_is_bit_for_bit(name: str, tmp_path: Path) -> None:
    round_trip(REFERENCES / name, tmp_path / "out")
    (weights,) = (path for path in (REFERENCES / name).iterdir() if path.stem not in ("reference", "config"))
    assert_same(weights, tmp_path / "out" / weights.name)


def test_float16_and_old_names_come_back(tmp_path: Path) -> None:
    def old(tensors: Tensors) -> Tensors:
        names = {name: f"bert.{name}" for name in tensors}
        for new, before in (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")):
            names = {name: each.replace(new, before) for name, each in names.items()}
        return {names[name]: tensor.astype(np.float16) for name, tensor in tensors.items()}

    folder = copied(tmp_path, "bert", old)
    round_trip(folder, tmp_path / "out")
    assert_same(folder / "model.safetensors", tmp_path / "out" / "model.safetensors")


def test_files_beside_the_weights_come_along(tmp_path: Path) -> None:
    folder = copied(tmp_path, "bert")
    (folder / "1_Pooling").mkdir()
    for name in ("tokenizer.json", "1_Pooling/config.json"):
        (folder / name).write_text(name)
    round_trip(folder, tmp_path / "out")
    for name in ("tokenizer.json", "1_Pooling/config.json"):
        assert (tmp_path / "out" / name).read_text() == name
    assert not (tmp_path / "out" / "reference.safetensors").exists()


def test_heads_that_are_not_used_are_left_out(tmp_path: Path) -> None:
    more = {"cls.predictions.bias": np.zeros(37, np.float32), "embeddings.position_ids": np.arange(11)[None]}
    folder = copied(tmp_path, "bert", lambda tensors: tensors | more)
    round_trip(folder, tmp_path / "out")
    assert_same(REFERENCES / "bert" / "model.safetensors", tmp_path / "out" / "model.safetensors")


def several_files(folder: Path, count: int = 3) -> dict[str, str]:
    """Splits the weights of a folder into several files; returns the map of names to files."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    where = {name: f"model-{i % count + 1:05}-of-{count:05}.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(where.values()):
        save_file({name: x for name, x in tensors.items() if where[name] == file}, folder / file)
    write_index(folder, where)
    return where


def write_index(folder: Path, where: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


WIDE = {"hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24, "vocab_size": 37, "num_hidden_layers": 3}


def test_sharded_on_arrival_from_several_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    spec = pretrained.FAMILIES["bert"]
    config = spec.config(**WIDE, max_position_embeddings=11)
    shapes = pretrained.checkpoint._shapes(spec, config)
    wanted = pretrained.names.wanted(spec.table(config), shapes)
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in wanted}
    folder = copied(tmp_path, "bert", lambda _: tensors, **WIDE)
    several_files(folder)
    checkpoint = pretrained.open_checkpoint(folder)
    whole = pretrained.load(checkpoint)
    mesh = Mesh(np.array(jax.devices()).reshape(1, 1, 4, 2), AXES)
    rules = pretrained.sharding_rules(checkpoint.shapes)
    parts = pretrained.load(checkpoint, match_rules(checkpoint.shape_tree(), rules, mesh))
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    kernel = parts["stack"]["block"]["mlp_in"]["kernel"]
    assert kernel.shape == (3, 16, 24) and {shard.data.shape for shard in kernel.addressable_shards} == {(3, 4, 12)}
    assert np.array_equal(kernel[1], tensors["encoder.layer.1.intermediate.dense.weight"].T)


@pytest.mark.parametrize("name", FOLDERS)
def test_every_parameter_has_a_sharding_rule(name: str) -> None:
    checkpoint = pretrained.open_checkpoint(REFERENCES / name)
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1, 1), AXES)
    match_rules(checkpoint.shape_tree(), pretrained.sharding_rules(checkpoint.shapes), mesh)


def refused(folder: Path, *words: str) -> None:
    """That a folder is refused in one line that has these words."""
    with pytest.raises(UserError) as caught:
        pretrained.load(pretrained.open_checkpoint(folder))
    message = str(caught.value)
    assert "\n" not in message
    for word in (folder.name, *words):
        assert word in message, message


def test_lists_all_tensors_that_are_missing_unknown_or_of_another_shape(tmp_path: Path) -> None:
    def change(tensors: Tensors) -> Tensors:
        missing = {"embeddings.LayerNorm.bias", "encoder.layer.1.output.dense.weight"}
        tensors["pooler.dense.bias"] = np.zeros(16, np.float32)
        rest = {name: x for name, x in tensors.items() if name not in missing}
        return rest | {"lora_A": np.zeros(3, np.float32), "lora_B": np.zeros(3, np.float32)}

    folder = copied(tmp_path, "bert", change)
    names = ("embeddings.LayerNorm.bias", "encoder.layer.1.output.dense.weight", "lora_A, lora_B")
    refused(folder, *names, "pooler.dense.bias [16] for [15]")


def test_more_layers_than_the_config_says(tmp_path: Path) -> None:
    refused(copied(tmp_path, "vit", num_hidden_layers=1), "encoder.layer.1.intermediate.dense.bias")


def test_config_of_another_family(tmp_path: Path) -> None:
    refused(copied(tmp_path, "bert", model_type="vit"), "without: embeddings.cls_token")
    refused(copied(tmp_path, "t5", model_type="llama"), "model_type", "'llama'", "known: AutoencoderKL")
    with pytest.raises(UserError, match="only runs if you name it"):
        pretrained.open_checkpoint(copied(tmp_path, "vit", model_type="os:system"))


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        (
            "bert",
            {"position_embedding_type": "relative_key"},
            ("position_embedding_type: 'relative_key'", "'absolute'"),
        ),
        ("bert", {"hidden_act": "mish"}, ("hidden_act: 'mish'", "quick_gelu")),
        ("bert", {"num_attention_heads": 4}, ("num_attention_heads: 4 does not divide hidden_size, 15",)),
        ("bert", {"hidden_size": "15"}, ("hidden_size", "whole number", "'15'")),
        ("bert", {"num_hidden_layers": 10**9}, ("num_hidden_layers", "1,000", "1000000000")),
        ("bert", {"layer_norm_eps": -1}, ("layer_norm_eps", "-1")),
        ("t5", {"feed_forward_proj": "gated-relu"}, ("feed_forward_proj: 'gated-relu'", "gated-gelu")),
        ("clip", {"vision_config": 3}, ("vision_config", "object")),
        ("clip", {"text_config": {"hidden_act": "swish"}}, ("text_config.hidden_act: 'swish'",)),
        ("bert", {"quantization_config": {"quant_method": "gptq"}}, ("quantized", "gptq")),
        ("bert", {"auto_map": {"AutoModel": "modeling_x.Model"}}, ("auto_map", "code of its own")),
    ],
)
def test_options_that_are_not_supported_are_named(
    name: str, settings: dict[str, Any], words: tuple[str, ...], tmp_path: Path
) -> None:
    refused(copied(tmp_path, name, **settings), *words)


def test_quantized_weights(tmp_path: Path) -> None:
    def change(tensors: Tensors) -> Tensors:
        tensors["pooler.dense.weight"] = np.zeros((15, 15), np.int8)
        return tensors

    refused(copied(tmp_path, "bert", change), "quantized", "pooler.dense.weight I8")


def test_nan(tmp_path: Path) -> None:
    def change(tensors: Tensors) -> Tensors:
        tensors["encoder.layer.1.output.dense.bias"][3] = np.nan
        return tensors

    refused(copied(tmp_path, "bert", change), "encoder.layer.1.output.dense.bias holds NaN")


def test_truncated_and_lying_headers(tmp_path: Path) -> None:
    folder = copied(tmp_path, "bert")
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])

    def rewritten(change: Callable[[dict[str, Any]], Any]) -> bytes:
        copy = json.loads(json.dumps(header))
        change(copy)
        text = json.dumps(copy).encode()
        return len(text).to_bytes(8, "little") + text + whole[8 + length :]

    first = next(name for name in header if name != "__metadata__")
    for content, word in (
        (b"", "only a part"),
        (whole[:7], "only a part"),
        (whole[:100], "only a part"),
        (whole[:-5], "bytes"),
        (whole + b"more", "bytes"),
        ((1 << 62).to_bytes(8, "little") + whole[8:], "only a part"),
        (whole[:8] + b"[" * length + whole[8 + length :], "damaged"),
        (rewritten(lambda each: each[first].update(shape=[1 << 59])), "damaged"),
        (rewritten(lambda each: each[first].update(shape=[-1])), "damaged"),
        (rewritten(lambda each: each[first].update(data_offsets=[0, 1 << 50])), "damaged"),
        (rewritten(lambda each: each[first].update(dtype="I16", data_offsets=[8, 16])), "overlap or leave gaps"),
        (rewritten(lambda each: each[first].update(dtype="I64", data_offsets=[8, 16])), "damaged"),
        (rewritten(lambda each: each.update({first: 3})), "damaged"),
    ):
        path.write_bytes(content)
        refused(folder, word, "copy it again")


def test_shards_that_are_missing_or_outside(tmp_path: Path) -> None:
    folder = copied(tmp_path, "bert")
    where = several_files(folder)
    (folder / "model-00002-of-00003.safetensors").unlink()
    refused(folder, "lacks model-00002-of-00003.safetensors")
    for name in ("../model.safetensors", "/etc/passwd", "a/../../b.safetensors", ""):
        write_index(folder, where | {"pooler.dense.bias": name})
        refused(folder, "not in its folder")
    write_index(folder, {"pooler.dense.bias": "model-00001-of-00003.safetensors"})
    refused(folder, "differ in", "embeddings.LayerNorm.bias")
    write_index(folder, 3)
    refused(folder, "weight_map")


def test_pickles_are_refused_with_what_converts_them(tmp_path: Path) -> None:
    folder = copied(tmp_path, "bert")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin: is a pickle", "torch.load('pytorch_model.bin'", "save_file")
    (folder / "pytorch_model.bin").unlink()
    refused(folder, "has no model.safetensors")


def test_tied_weights(tmp_path: Path) -> None:
    copy = "encoder.embed_tokens.weight"
    folder = copied(tmp_path, "t5", lambda tensors: tensors | {copy: tensors["shared.weight"].copy()})
    round_trip(folder, tmp_path / "out")
    assert_same(REFERENCES / "t5" / "model.safetensors", tmp_path / "out" / "model.safetensors")
    alone = copied(
        tmp_path / "alone",
        "t5",
        lambda tensors: {copy if name == "shared.weight" else name: tensor for name, tensor in tensors.items()},
    )
    round_trip(alone, tmp_path / "again")
    assert_same(alone / "model.safetensors", tmp_path / "again" / "model.safetensors")
    apart = copied(tmp_path / "apart", "t5", lambda tensors: tensors | {copy: tensors["shared.weight"] + 1})
    refused(apart, f"{copy} and shared.weight should be the same")


def test_damaged_config(tmp_path: Path) -> None:
    folder = copied(tmp_path, "bert")
    for content, word in (("{", "no JSON"), ("[]", "must be a JSON object"), ("{}", "model_type")):
        (folder / "config.json").write_text(content)
        refused(folder, "config.json", word)
    (folder / "config.json").unlink()
    refused(folder, "config.json", "No such file")
