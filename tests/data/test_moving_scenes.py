"""Clips of moving scenes as a source: what a batch holds, what is held out, resuming, memory."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from made_data import config_dict

from mmjax.config import Config, resolve
from mmjax.data import evaluation_batches, load_tokenizer, open_source, scenes, train_tokenizer, training_batches
from mmjax.scenes import motion
from mmjax.scenes.motion import judge_clip
from mmjax.types import Batch

TOKENIZER = load_tokenizer(train_tokenizer(["a red circle moving left", "a blue ring moving up"] * 20, 300))


def clips(frames: int = 3, **data: Any) -> Config:
    fields = {"source": "scenes", "size": 32, "frames": frames, "scenes": {"examples": 23}, **data}
    model = {"kind": "visual_tokenizer", "time_strides": [1, 2]}
    parts = {"train": {"batch": 5, "steps": 1}, "evaluate": {"batch": 5}, "text": {"length": 13}, "seed": 3}
    return resolve({"data": fields, "model": model, **parts})


def training(config: Config, count: int, start: int = 0) -> list[Batch]:
    batches = training_batches(open_source(config.data, True, config.seed), TOKENIZER, config, start)
    taken = list(itertools.islice(batches, count))
    batches.close()  # type: ignore[attr-defined]
    return taken


def evaluation(config: Config) -> list[Batch]:
    return list(evaluation_batches(open_source(config.data, False, config.seed), TOKENIZER, config))


def as_uint8(image: np.ndarray) -> np.ndarray:
    return np.rint((image + 1) * 127.5).astype(np.uint8)


@pytest.mark.parametrize("held_out", [False, True])
def test_clips_show_their_captions_and_only_those_they_may(held_out: bool) -> None:
    config = clips(evaluation_examples=7)
    batches = evaluation(config) if held_out else training(config, 2)
    known = {motion.caption(scene) for scene in motion.scenes(held_out)}
    counted = 0
    for batch in batches:
        assert batch["image"].shape == (5, 3, 32, 32, 3) and batch["image"].dtype == np.float32
        assert batch["text"].shape == (5, 13)
        for clip, mask, captions in zip(batch["image"], batch["mask"], batch["captions"], strict=True):
            if mask:
                assert captions[0] in known and len(captions) == 1 and judge_clip(as_uint8(clip), captions[0]).all
            counted += mask
    assert counted == (7 if held_out else 10)


def test_clips_are_those_of_the_renderer() -> None:
    (batch,) = training(clips(frames=5), 1)
    for clip, name, (text,) in zip(batch["image"], batch["id"], batch["captions"], strict=True):
        expected, caption = motion.example(int(name.removeprefix("scene-")), 32, 5, 3, held_out=False)
        assert text == caption
        np.testing.assert_array_equal(as_uint8(clip), expected)


def test_one_frame_is_a_image_of_two_things() -> None:
    (batch,) = training(config_dict("scenes", frames=1), 1)
    assert batch["image"].shape == (5, 32, 32, 3)
    assert not any("moving" in text for captions in batch["captions"] for text in captions)


def test_captions_are_told_without_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    config = clips()
    drawn = [motion.example(i, 32, 3, 3, False)[1] for i in range(23)]

    def no_clip(*arguments: Any) -> None:
        raise AssertionError("a clip was drawn")

    monkeypatch.setattr(motion, "draw", no_clip)
    assert list(open_source(config.data, True, 3).all_captions()) == drawn


def test_resuming_gives_the_same_batches() -> None:
    whole, resumed = training(clips(), 7), training(clips(), 2, start=5)
    for first, second in zip(whole[5:], resumed, strict=True):
        np.testing.assert_array_equal(first["image"], second["image"])
        assert first["captions"] == second["captions"]


@pytest.mark.parametrize(("room", "kept"), [(7, 7), (100, 23)])
def test_so_many_clips_are_kept_as_memory_is_for(room: int, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: Counter[int] = Counter()
    example = motion.example

    def counting(index: int, *arguments: Any) -> Any:
        drawn[index] += 1
        return example(index, *arguments)

    monkeypatch.setattr(motion, "example", counting)
    monkeypatch.setattr(scenes, "CACHE_BYTES", room * 3 * 32 * 32 * 3 + 1)
    config = clips(scenes={"examples": 23})
    source = open_source(config.data, True, config.seed)
    batches = training_batches(source, TOKENIZER, config)
    assert len(list(itertools.islice(batches, 23))) == 23  # five epochs
    batches.close()  # type: ignore[attr-defined]
    assert sum(count == 1 for count in drawn.values()) == kept
