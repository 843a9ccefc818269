"""Pretrained text encoders as frozen components of generators: their features, their tokenizers, the whole way."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from folders import REFERENCES, copied
from messages import error_message
from safetensors.numpy import load_file

import mmjax
from mmjax import data, models
from mmjax.cli import main
from mmjax.config import load_config
from mmjax.data.tokenizer_json import ShiftedTokenizer, load_json_tokenizer
from mmjax.engine import components
from mmjax.export import frozen_text, write_model_folder
from mmjax.export.model_folder import flatten
from mmjax.nn.compute import DEFAULT

TEXTS = ["a small red circle", "A RING", "", "a large blue square above a small green ring left of a red circle"]


@pytest.mark.parametrize("name", ["bert", "clip", "clip_text", "siglip", "t5", "umt5"])
def test_features_equal_those_of_transformers(tmp_path: Path, name: str) -> None:
    frozen = frozen_text.of_folder(copied(tmp_path, name))
    reference = load_file(REFERENCES / name / "reference.safetensors")
    text = np.where(reference["mask"], reference["ids"] + 1, 0)
    found = np.asarray(jax.jit(frozen_text.encoder(frozen.component, DEFAULT))(frozen.params, text))
    wanted = reference["text_tokens"]
    assert found.dtype == np.float16 and found.shape == wanted.shape and (found[text == 0] == 0).all()
    if name != "siglip":  # its reference has another padding inside
        np.testing.assert_allclose(found[text != 0], wanted[text != 0], rtol=1e-3, atol=1e-3)
    assert models.text_encoder.width(frozen.component) == wanted.shape[-1]
    names = flatten(frozen.params).keys()
    assert not any(each.startswith("vision") for each in names) and any("words" in each for each in names)


@pytest.mark.parametrize("name", ["bert", "clip", "siglip", "t5"])
def test_features_of_texts_of_any_length(tmp_path: Path, name: str) -> None:
    """As mmjax.load gives them of the folder, which pads as the family was trained."""
    folder = copied(tmp_path, name)
    frozen, model = frozen_text.of_folder(folder), mmjax.load(folder)
    tokenizer = data.load_tokenizer(frozen.tokenizer)
    assert isinstance(tokenizer, ShiftedTokenizer)
    wanted, mask = model.encode_text(TEXTS[:3])
    encode = jax.jit(frozen_text.encoder(frozen.component, DEFAULT))
    for length in (7, 9):
        text = tokenizer.encode(TEXTS[:3], length)
        found = np.asarray(encode(frozen.params, text))
        for row, kept, features in zip(found, mask, wanted, strict=True):
            np.testing.assert_allclose(row[: kept.sum()], features[: kept.sum()], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["bert", "clip", "siglip", "t5"])
def test_the_tokenizer_alone_is_that_of_the_folder(tmp_path: Path, name: str) -> None:
    folder = copied(tmp_path, name)
    original = load_json_tokenizer(folder)
    shifted = data.load_tokenizer(original.serialized())
    ids, mask = original.encode_with_mask(TEXTS, 9)
    np.testing.assert_array_equal(shifted.encode(TEXTS, 9), np.where(mask, ids + 1, 0))
    assert (shifted.size, shifted.end, shifted.padding) == (original.size + 1, original.end + 1, 0)
    assert list(map(shifted.length, TEXTS)) == list(map(original.length, TEXTS))
    assert shifted.decode(shifted.encode(TEXTS[:1], 9)) == TEXTS[:1]
    again = data.load_tokenizer(shifted.proto)
    np.testing.assert_array_equal(again.encode(TEXTS, 7), shifted.encode(TEXTS, 7))


def test_case_and_side_of_padding_are_kept(tmp_path: Path) -> None:
    folder = copied(tmp_path, "bert")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"padding_side": "left"}))
    original = load_json_tokenizer(folder)
    assert original.encode(["A RING"], 6).tolist() == [[0, 0, 2, 10, 18, 3]]
    assert data.load_tokenizer(original.serialized()).encode(["A RING"], 6).tolist() == [[3, 11, 19, 4, 0, 0]]


def test_the_file_in_a_workdir(tmp_path: Path) -> None:
    frozen = frozen_text.of_folder(copied(tmp_path, "clip"))
    path = tmp_path / "text_encoder.safetensors"
    frozen_text.write(path, frozen)
    found = frozen_text.read(path)
    assert (found.component, found.tokenizer) == (frozen.component, frozen.tokenizer)
    jax.tree.map(np.testing.assert_array_equal, found.params, frozen.params)
    content = path.read_bytes()
    for old, new in ((b'\\"clip\\"', b'\\"clop\\"'), (b'\\"has\\"', b'\\"had\\"'), (b"F32", b"F16")):
        assert old in content
        path.write_bytes(content.replace(old, new))
        assert "text_encoder.safetensors: " in error_message(frozen_text.read, path)
    foreign = content.replace(b'\\"clip\\"', b'\\"p:ID\\"')
    path.write_bytes(foreign)
    assert foreign != content and "--plugins=p" in error_message(frozen_text.read, path)


def test_what_is_no_text_encoder(tmp_path: Path) -> None:
    assert "encodes no texts" in error_message(frozen_text.of_folder, REFERENCES / "vit")
    assert "tokenizer.json: no such file" in error_message(frozen_text.of_folder, REFERENCES / "clip")
    folder = copied(tmp_path, "bert")
    overrides = {"components.text_encoder": str(folder), "text.length": "12"}
    config = load_config("configs/scenes_direct.py:tiny", overrides)
    assert error_message(components.resolve_config, config, tmp_path) == (
        "text.length: must be at most 11, the positions of the text encoder, not 12"
    )


def test_a_broken_tokenizer_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = copied(tmp_path, "bert")
    content = json.loads((folder / "tokenizer.json").read_text())
    broken = content | {"normalizer": {"precompiled_charsmap": "AAAA", "type": "Precompiled"}}
    (folder / "tokenizer.json").write_text(json.dumps(broken))
    config = "--config=configs/scenes_direct.py:tiny"
    named = f"--config.components.text_encoder={folder}"
    assert main(["train", config, named, "--config.text.length=9", f"--workdir={tmp_path / 'run'}"]) == 2
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and f"{folder / 'tokenizer.json'}: is no tokenizer" in lines[0]


def test_the_text_tower_of_a_contrastive_model_of_mmjax(tmp_path: Path) -> None:
    config = load_config("configs/quickstart_describe.py:tiny")
    params = jax.jit(lambda: models.init(config, jax.random.key(1)))()
    source = data.open_source(config.data, training=True, seed=0)
    proto = data.train_tokenizer(source.all_captions(), config.text.vocabulary)
    write_model_folder(tmp_path / "dual", config, jax.device_get(params), proto, 0, {})
    overrides = {"components.text_encoder": str(tmp_path / "dual")}
    generator = components.resolve_config(load_config("configs/scenes_direct.py:tiny", overrides), tmp_path)
    kept = components.copied_text_encoder(generator, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, kept, params["text"])
    frozen = frozen_text.read(tmp_path / "text_encoder.safetensors")
    text = data.load_tokenizer(proto).encode(TEXTS, config.text.length)
    found = np.asarray(frozen_text.encoder(frozen.component, DEFAULT)(frozen.params, jnp.asarray(text)))
    encoder = models.text_encoder.TextEncoder(**dataclasses.asdict(models.text_encoder.settings(config)))
    wanted = np.asarray(encoder.apply({"params": params["text"]}, jnp.asarray(text))[0])
    np.testing.assert_allclose(found[text != 0], wanted[text != 0], rtol=1e-3, atol=1e-3)


@pytest.mark.slow  # waits for a training
def test_from_a_folder_to_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, workdir = copied(tmp_path, "clip_text"), tmp_path / "run"
    arguments: list[Any] = ["--config=configs/scenes_direct.py:tiny", f"--config.components.text_encoder={folder}"]
    arguments += ["--config.text.length=9", f"--workdir={workdir}"]
    assert main(["train", *arguments]) == 0
    wanted = mmjax.load(folder)
    texts = ["a red circle", "a blue ring"]
    features, mask = wanted.encode_text(texts)
    shutil.rmtree(folder)
    assert main(["train", *arguments]) == 0  # is done, and takes the copy
    assert "done already" in capsys.readouterr().out
    assert main(["evaluate", f"--workdir={workdir}"]) == 0
    assert main(["export", f"--workdir={workdir}", f"--out={tmp_path / 'model'}"]) == 0
    names = ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == names
    image = str(tmp_path / "x.png")
    assert main(["generate", f"--model={tmp_path / 'model'}", "--prompt", *texts, f"--out={image}"]) == 0
    model = mmjax.load(tmp_path / "model")
    found = model._text_features(model.tokenizer.encode(texts, 9))
    np.testing.assert_allclose(found[mask[:, :9]], features[:, :9][mask[:, :9]], rtol=1e-3, atol=1e-3)
    drawn = model.generate(texts)
    np.testing.assert_array_equal(mmjax.load(workdir).generate(texts), drawn)
    assert (drawn[0] != drawn[1]).any()
    index = json.loads((workdir / "tokens" / "text" / "index.json").read_text())
    assert sum(shard["size"] for shard in index["shards"]) > 10
