"""The cache of text features: each caption once, more of them later, going on after an end, and what is refused."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_data import config_dict
from safetensors.numpy import load_file

from mmjax import data
from mmjax.data.text_features import _name
from mmjax.types import UserError

LENGTH, WIDTH, BATCH = 7, 5, 3
KEY = {"text": {"length": LENGTH}, "text_encoder": {"width": WIDTH, "params": "1"}}
CAPTIONS = [f"{n} é cats"[: 3 + n % 5] + "!" * (n % 3) + f"{n}" for n in range(11)]
PARAMS = {"block": {"kernel": np.ones((2, 3), np.float32)}, "table": np.zeros(5, np.float32)}


class Encoder:
    """Features that follow from the letters: the i-th is the i-th letter's number, in units of its own a channel."""

    def __init__(self, stop_after: int = 1000) -> None:
        self.asked: list[str] = []
        self.stop_after = stop_after

    def __call__(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        assert len(texts) == BATCH
        if len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked += texts
        mask = np.arange(LENGTH) < np.array([[min(len(text) + 1, LENGTH)] for text in texts])
        return np.stack([expected(text) for text in texts]), mask


def expected(text: str) -> np.ndarray:
    found = np.zeros((LENGTH, WIDTH), np.float16)
    for i, letter in enumerate((text + "\0")[:LENGTH]):
        found[i] = ord(letter) + np.arange(WIDTH) / 8
    return found


def cached(folder: Path, captions: Sequence[str], encode: Any = None, key: Any = KEY, **options: Any) -> Any:
    return data.cached_text_features(folder, key, captions, encode or Encoder(), BATCH, per_shard=7, **options)


@pytest.fixture(name="folder")
def written(tmp_path: Path) -> Path:
    cached(tmp_path / "text", CAPTIONS)
    return tmp_path / "text"


def refused(folder: Path, key: Any = KEY) -> str:
    before = {path: path.read_bytes() for path in folder.rglob("*")}
    with pytest.raises(UserError) as error:
        cached(folder, CAPTIONS, key=key)
    assert {path: path.read_bytes() for path in folder.rglob("*")} == before
    return str(error.value)


def test_each_caption_has_its_own_features_and_is_encoded_once(tmp_path: Path) -> None:
    encode = Encoder()
    features = cached(tmp_path / "text", CAPTIONS * 3, encode)
    assert sorted(set(encode.asked)) == sorted({"", *CAPTIONS}) and len(encode.asked) == 12  # four batches of three
    texts = [*CAPTIONS[::-2], "", *CAPTIONS[:4]]
    found = features(texts)
    assert found.dtype == np.float16 and found.shape == (len(texts), LENGTH, WIDTH)
    np.testing.assert_array_equal(found, [expected(text) for text in texts])
    shards = sorted((tmp_path / "text").glob("*.safetensors"))
    assert [path.name for path in shards] == ["000000000000.safetensors", "000000000006.safetensors"]
    assert load_file(shards[0])["features"].shape == (sum(min(len(t) + 1, LENGTH) for t in ["", *CAPTIONS[:5]]), WIDTH)


def test_more_captions_are_added(folder: Path) -> None:
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    encode = Encoder()
    features = cached(folder, [*CAPTIONS, "another", "yet one"], encode)
    assert encode.asked[:2] == ["another", "yet one"] and len(encode.asked) == BATCH
    np.testing.assert_array_equal(features(["yet one", CAPTIONS[7]]), [expected("yet one"), expected(CAPTIONS[7])])
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    encode.asked.clear()
    cached(folder, ["another"], encode)
    assert encode.asked == []
    with pytest.raises(UserError, match="has no features of 'a third'; run mmjax prepare"):
        features(["a third"])


def test_it_goes_on_where_it_was_stopped(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path / "again", CAPTIONS, Encoder(stop_after=9))  # in the second shard
    (tmp_path / "again" / "000000000006.safetensors").write_bytes(b"of an attempt that was killed before the index")
    (tmp_path / "again" / ".000000000006.safetensors.1.tmp").write_bytes(b"half")
    encode = Encoder()
    cached(tmp_path / "again", CAPTIONS, encode)
    assert encode.asked == CAPTIONS[5:]
    contents = [{path.name: path.read_bytes() for path in f.iterdir()} for f in (tmp_path / "again", folder)]
    assert contents[0] == contents[1]


def test_damage_is_told_and_repaired(folder: Path, tmp_path: Path) -> None:
    whole = shutil.copytree(folder, tmp_path / "whole")
    shard = folder / "000000000000.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    message = f"{shard}: its bytes are not those that were written; run mmjax prepare to repair it"
    assert refused(folder) == message
    shard.unlink()
    assert refused(folder).startswith(f"{shard}: cannot be read")
    cached(folder, CAPTIONS, repair=True)
    for path in whole.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()


def test_a_cache_of_something_else_is_refused(folder: Path, tmp_path: Path) -> None:
    other = "name another with --config.tokens.cache=DIR"
    encoder = {**KEY["text_encoder"], "params": "2"}
    assert refused(folder, {**KEY, "text_encoder": encoder}) == (
        f"{folder}: holds other text features: text_encoder.params was 1 and now is 2; remove the folder, or {other}"
    )
    assert refused(folder, {**KEY, "text": {"length": 8}}) == (
        f"{folder}: holds other text features: text.length was 7 and now is 8; remove the folder, or {other}"
    )
    (folder / "index.json").write_text("{")
    assert refused(folder).startswith(f"{folder / 'index.json'}: not an index of text features, version 1; remove")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"")
    assert refused(tmp_path / "photos").startswith(f"{tmp_path / 'photos'}: holds other files than text features; ")


def test_the_key_tells_encoders_apart() -> None:
    settings = {"vocabulary": 300, "width": WIDTH}
    keys = [
        data.text_cache_key(PARAMS, b"pieces", settings, 7),
        data.text_cache_key({**PARAMS, "table": np.full(5, 1e-7, np.float32)}, b"pieces", settings, 7),
        data.text_cache_key(PARAMS, b"other pieces", settings, 7),
        data.text_cache_key(PARAMS, b"pieces", settings, 8),
        data.text_cache_key(PARAMS, b"pieces", settings | {"width": 2}, 7),
    ]
    assert keys[0] == data.text_cache_key(PARAMS, b"pieces", dict(settings), 7)
    assert len({json.dumps(key) for key in keys}) == 5


def test_a_batch_has_the_features_of_the_caption_that_was_drawn(tmp_path: Path) -> None:
    config = config_dict("scenes", batch=4, seed=0, evaluation_examples=6, scenes={"examples": 10})
    tokenizer = data.load_tokenizer(data.train_tokenizer(CAPTIONS, 300))
    for training, batches in ((True, data.training_batches), (False, data.evaluation_batches)):
        source = data.open_source(config.data, training=training, seed=0)
        source.text_features = cached(tmp_path / "text", [*source.all_captions()])
        made = batches(source, tokenizer, config)
        batch = next(made)
        made.close()
        np.testing.assert_array_equal(batch["text_features"], [expected(c[0]) for c in batch["captions"]])
        assert batch["text"].shape == (4, config.text.length)


def test_names_do_not_depend_on_the_process() -> None:
    assert _name("") == int.from_bytes(bytes.fromhex("e3b0c44298fc1c14"), "little")
    _name("\ud800")  # a lone surrogate, from broken JSON
