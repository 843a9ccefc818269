"""What cached tokens follow from: a cache of anything else is refused, and says what differs."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from made_data import config_dict
from made_tokens import KEY, contents, write

from mmjax import data
from mmjax.config import ComponentConfig, Config, resolve
from mmjax.types import UserError


def test_another_key_names_what_differs(copied_tokens: Path, tmp_path: Path) -> None:
    before = contents(copied_tokens)
    half = tmp_path / "half"
    half.mkdir()
    (half / "index.json").write_bytes(before["index.json"].replace(b'"complete": true', b'"complete": false'))
    other = {"data": {"size": 32}, "tokenizer": {"params": "34" * 32}, "seed": 5}
    message = (
        "holds other visual tokens: data.size was 16 and now is 32, seed was not set and now is 5, tokenizer.params "
        "was 12121212... and now is 34343434...; remove the folder, or name another with --config.tokens.cache=DIR"
    )
    for folder, use in (
        (copied_tokens, lambda: data.open_tokens(copied_tokens, other)),
        (copied_tokens, lambda: write(copied_tokens, key=other)),
        (half, lambda: write(half, key=other)),
    ):
        with pytest.raises(UserError) as error:
            use()
        assert str(error.value) == f"{folder}: {message}"
    assert contents(copied_tokens) == before
    many = {"a": 1, "b": (2, 3), "c": 3, "d": "x", "e": ""}
    with pytest.raises(
        UserError,
        match=r"a was not set and now is 1, b was not set and now is \[2, 3\], c was not set and now is 3, 2 more",
    ):
        data.open_tokens(copied_tokens, KEY | many)


def tokenizer_config(convolution: str = "auto", **model: Any) -> Config:
    tree = {"model": {"kind": "visual_tokenizer", **model}, "compute": {"convolution": convolution}}
    return resolve({**tree, "train": {"steps": 1}})


PARAMS = {"b": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "a": np.ones(2, np.float32)}


def test_a_key_tells_what_the_tokens_follow_from() -> None:
    config, model = (
        config_dict("coco_folder", "/a", flip=True, train_split="train", shuffle_buffer=3),
        tokenizer_config(),
    )
    key = data.token_cache_key(PARAMS, model, config, "train")
    assert json.loads(json.dumps(key)) == key
    assert key["data"] == {
        "source": "coco_folder", "train_split": "train", "size": 16, "frames": 1, "resize": 18, "flip": True
    }  # fmt: skip

    def of(params: Any = PARAMS, split: str = "train", model: Any = model, **changes: Any) -> dict[str, Any]:
        changed = {name: changes.pop(name) for name in ("tokens", "seed", "text") if name in changes}
        fields = dataclasses.replace(config, data=dataclasses.replace(config.data, **changes), **changed)
        return data.token_cache_key(params, model, fields, split)

    as_before = [
        of(root="/b"),
        of(shuffle_buffer=5),
        of(evaluation_examples=7),
        of(evaluation_split="val2014"),
        of(frame_rate=3.0),
        of(seed=9),
        of(text=dataclasses.replace(config.text, length=5)),
        of(model=tokenizer_config(convolution="matmul")),
        of({"a": jnp.asarray(PARAMS["a"]), "b": {"kernel": jnp.asarray(PARAMS["b"]["kernel"])}}),
    ]
    assert all(other == key for other in as_before)
    kernel = PARAMS["b"]["kernel"]
    others = [
        of({"b": {"kernel": kernel}, "a": np.float32([1, np.nextafter(np.float32(1), 2)])}),
        of({"b": {"kernel": kernel.T.copy().reshape(3, 2)}, "a": PARAMS["a"]}),
        of({"b": {"kernel": kernel.reshape(3, 2)}, "a": PARAMS["a"]}),
        of({"c": {"kernel": kernel}, "a": PARAMS["a"]}),
        of({"b": {"kernel": kernel.view(np.int32)}, "a": PARAMS["a"]}),
        of(size=32),
        of(flip=False),
        of(resize=20),
        of(frames=5),
        of(train_split="val2017"),
        of(source="coco_tfds"),
        of(split="evaluation"),
        of(tokens=dataclasses.replace(config.tokens, num_augmentations=2)),
        of(model=tokenizer_config(levels=[8, 8])),
    ]
    told = [json.dumps(other) for other in [key, *others]]
    assert len(set(told)) == len(told)


def test_a_key_of_scenes_has_the_seed_that_draws_them() -> None:
    model = tokenizer_config()
    first, second = (data.token_cache_key(PARAMS, model, config_dict("scenes", seed=s), "train") for s in (3, 4))
    assert (first["seed"], second["seed"]) == (3, 4) and first["data"] == second["data"]


def test_a_key_has_the_tokenizer_of_references(tmp_path: Path) -> None:
    config, model = config_dict("coco_folder", "/a"), tokenizer_config()

    def of(params: Any, size: int = 16, **changes: Any) -> dict[str, Any]:
        theirs = tokenizer_config(**changes)
        theirs = dataclasses.replace(theirs, data=dataclasses.replace(theirs.data, size=size))
        with_theirs = dataclasses.replace(config, components={"reference_tokenizer": ComponentConfig(config=theirs)})
        return data.token_cache_key(PARAMS, model, with_theirs, "train", params)

    without, key = data.token_cache_key(PARAMS, model, config, "train"), of(PARAMS)
    assert "reference" not in without and of(PARAMS, convolution="matmul") == key
    assert {name: value for name, value in key.items() if name != "reference"} == without
    write(tmp_path, key=key)
    another = of({**PARAMS, "a": np.zeros(2, np.float32)})
    for wanted, told in [
        (another, "reference.params was"),
        (of(PARAMS, size=32), "reference.size was 16 and now is 32; remove"),
        (of(PARAMS, levels=[8, 8]), "reference.model.levels was [8, 5, 5, 5] and now is [8, 8]; remove"),
        (without, "reference was set and now is not set; remove"),
    ]:
        with pytest.raises(UserError, match=re.escape(f"{tmp_path}: holds other visual tokens: {told}")):
            data.open_tokens(tmp_path, wanted)
    write(tmp_path / "without", key=without)
    with pytest.raises(UserError, match="holds other visual tokens: reference was not set and now is set; remove"):
        data.open_tokens(tmp_path / "without", key)
