"""SigLIP from npz files of big_vision: layouts beside Flax's own modules, stacked layers, files that are wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import flax.traverse_util
import jax
import numpy as np
import pytest
from messages import error_message
from safetensors.numpy import load_file

import mmjax
from mmjax import pretrained

FOLDER = Path(__file__).parents[1] / "references" / "siglip_big_vision"
Arrays = dict[str, np.ndarray]


def arrays_of(folder: Path = FOLDER) -> Arrays:
    with np.load(folder / "model.npz") as archive:
        return dict(archive)


def copied(tmp_path: Path, change: Callable[[Arrays], Arrays]) -> Path:
    shutil.copyfile(FOLDER / "config.json", tmp_path / "config.json")
    np.savez(tmp_path / "model.npz", **change(arrays_of()))  # type: ignore[arg-type]
    return tmp_path


def test_the_reference_is_what_flax_holds() -> None:
    """The pooling of the image tower by Flax's modules, whose parameters big_vision's files hold."""
    flat = {tuple(name.split("/")[1:]): array for name, array in arrays_of().items()}
    params = flax.traverse_util.unflatten_dict(flat)["img"]["MAPHead_0"]
    reference = load_file(FOLDER / "reference.safetensors")
    tokens = reference["image_tokens"]
    probe = np.tile(params["probe"], (len(tokens), 1, 1))
    attention = nn.MultiHeadDotProductAttention(3)
    x = attention.apply({"params": params["MultiHeadDotProductAttention_0"]}, probe, tokens)
    y = nn.LayerNorm().apply({"params": params["LayerNorm_0"]}, x)
    for i, width in ((0, 22), (1, 15)):
        y = nn.Dense(width).apply({"params": params["MlpBlock_0"][f"Dense_{i}"]}, nn.gelu(y) if i else y)
    pooled = np.array(x + y)[:, 0]
    pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
    np.testing.assert_allclose(pooled, reference["image_embeds"], rtol=0, atol=1e-5)


def stacked(arrays: Arrays, tower: str = "Transformer") -> Arrays:
    """The same with the layers of a tower stacked along a first axis."""
    first = [name for name in arrays if f"{tower}/encoderblock_0/" in name]
    rest = {name: array for name, array in arrays.items() if f"{tower}/encoderblock_" not in name}
    names = {name: [name.replace("block_0", f"block_{i}") for i in range(2)] for name in first}
    return rest | {name.replace("block_0", "block"): np.stack([arrays[n] for n in names[name]]) for name in first}


@pytest.mark.parametrize(
    "change", [stacked, lambda arrays: {k: x.astype(jax.numpy.bfloat16) for k, x in arrays.items()}]
)
def test_stacked_layers_and_bfloat16(change: Callable[[Arrays], Arrays], tmp_path: Path) -> None:
    checkpoint = pretrained.open_checkpoint(copied(tmp_path, change))
    params, wanted = pretrained.load(checkpoint), pretrained.load(pretrained.open_checkpoint(FOLDER))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.01 * (change is not stacked)), params, wanted)
    pretrained.write(tmp_path / "out", checkpoint, params)
    written, read = arrays_of(tmp_path / "out"), arrays_of(tmp_path)
    assert written.keys() == read.keys()
    assert all(written[k].tobytes() == x.tobytes() and written[k].dtype == x.dtype for k, x in read.items())


def test_the_config_that_is_missing(tmp_path: Path) -> None:
    shutil.copyfile(FOLDER / "model.npz", tmp_path / "siglip2_b32_256.npz")
    message = error_message(mmjax.load, tmp_path)
    (tmp_path / "config.json").write_text(message[message.index("{") :])
    opened, wanted = (pretrained.open_checkpoint(folder).config for folder in (tmp_path, FOLDER))
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "siglip" and opened == wanted


def test_files_that_are_damaged_or_of_other_kinds(tmp_path: Path) -> None:
    folder = copied(tmp_path, lambda arrays: {k: np.asfortranarray(x) for k, x in arrays.items()})
    assert "Fortran" in error_message(mmjax.load, folder)
    np.savez_compressed(folder / "model.npz", **arrays_of())  # type: ignore[arg-type]
    assert "compressed" in error_message(mmjax.load, folder)
    content = (FOLDER / "model.npz").read_bytes()
    for damaged in (b"", content[:100], content[:-50], content.replace(b"'shape': (15,)", b"'shape': (99,)")):
        (folder / "model.npz").write_bytes(damaged)
        assert "damaged" in error_message(mmjax.load, folder)
    copied(tmp_path, lambda arrays: arrays | {"params/t": np.array([{}], dtype=object)})
    assert "params/t.npy holds Python objects" in error_message(mmjax.load, folder)
    copied(tmp_path, lambda arrays: arrays | {"params/t": np.ones(1, np.int8), "opt/step": np.ones(1)})
    message = error_message(mmjax.load, folder)
    assert "not known: opt/step" in message and "params/t int8" in message
    copied(tmp_path, lambda arrays: {k: x for k, x in arrays.items() if k != "params/b"})
    assert "without: params/b" in error_message(mmjax.load, folder)
