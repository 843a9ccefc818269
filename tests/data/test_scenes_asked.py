"""Scenes with questions as a source: what a batch has of them, and the rows that have no caption."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from made_data import config_dict

from mmjax.config import Config
from mmjax.data import evaluation_batches, load_tokenizer, open_source, train_tokenizer, training_batches
from mmjax.data.text import END
from mmjax.scenes.questions import example_scene, question
from mmjax.types import HOST_FIELDS, Batch, UserError


def asking(**data: Any) -> Config:
    scenes = {"examples": 23, "questions": True, **data.pop("scenes", {})}
    return config_dict("scenes", scenes=scenes, evaluation_examples=17, **data)


TOKENIZER = load_tokenizer(train_tokenizer(open_source(asking().data, True, 3).all_captions(), 600))


def training(config: Config, count: int, start: int = 0) -> list[Batch]:
    batches = training_batches(open_source(config.data, True, config.seed), TOKENIZER, config, start)
    taken = [next(batches) for _ in range(count)]
    batches.close()  # type: ignore[attr-defined]
    return taken


def evaluation(config: Config) -> list[Batch]:
    return list(evaluation_batches(open_source(config.data, False, config.seed), TOKENIZER, config))


def test_a_batch_is_what_the_types_say() -> None:
    config = asking()
    assert open_source(config.data, True, 3).features == config.data.features
    assert tuple(config.data.features) == ("image", "text", "scene", "question")
    for batch in (training(config, 1)[0], evaluation(config)[0]):
        assert {
            name: (batch[name].dtype, batch[name].shape) for name in ("text", "question", "answer")
        } == dict.fromkeys(("text", "question", "answer"), (np.int32, (5, 13)))
        assert set(batch) - {"image", "text", "mask", "key", "question", "answer"} == set(HOST_FIELDS)
        assert TOKENIZER.decode(batch["question"]) == batch["questions"]
        assert [[text] for text in TOKENIZER.decode(batch["answer"])] == batch["answers"]
        assert np.all(np.sum(batch["question"] == END, axis=1) == 1) and np.all(
            np.sum(batch["answer"] == END, axis=1) == 1
        )


@pytest.mark.parametrize("fully_specified", [False, True])
def test_a_text_is_all_padding_where_there_is_no_caption(fully_specified: bool) -> None:
    config = asking(scenes={"fully_specified": fully_specified})
    for batches in (training(config, 5), evaluation(config)):
        told = [
            (text, captions)
            for batch in batches
            for text, captions in zip(batch["text"], batch["captions"], strict=True)
        ]
        assert {len(captions) for _, captions in told} == {0, 1}
        for text, captions in told:
            assert np.any(text) == bool(captions)
            if captions:
                assert np.array_equal(text, TOKENIZER.encode(captions, 13)[0])


def test_images_stay_and_questions_change_with_the_epoch() -> None:
    config = asking(batch=23)
    asked: dict[str, Counter[str]] = {}
    images: dict[str, bytes] = {}
    for epoch, batch in enumerate(training(config, 6)):
        for i, text, answers, image in zip(
            batch["id"], batch["questions"], batch["answers"], batch["image"], strict=True
        ):
            key = int(i.removeprefix("scene-"))
            assert (text, *answers) == question(key, epoch, 3, example_scene(key, 3, True, False))
            asked.setdefault(i, Counter())[text] += 1
            assert images.setdefault(i, image.tobytes()) == image.tobytes()
    assert len(asked) == 23 and sum(len(counts) > 1 for counts in asked.values()) > 20
    again, straight = training(config, 1, start=4)[0], training(config, 5)[4]
    assert again["questions"] == straight["questions"] and np.array_equal(again["answer"], straight["answer"])


def test_an_evaluation_asks_the_same_each_time_and_is_filled_up_blank() -> None:
    first, second = evaluation(asking()), evaluation(asking())
    for one, other in zip(first, second, strict=True):
        assert one["questions"] == other["questions"] and np.array_equal(one["question"], other["question"])
    last = first[-1]
    assert last["mask"].tolist() == [True] * 2 + [False] * 3
    assert (last["questions"][2:], last["answers"][2:], last["captions"][2:]) == ([""] * 3, [[]] * 3, [[]] * 3)
    assert not any(np.any(last[name][2:]) for name in ("text", "question", "answer", "image"))
    assert all(last["questions"][:2]) and all(last["answers"][:2])


def test_the_text_tokenizer_learns_from_questions_and_answers() -> None:
    for training in (True, False):
        source = open_source(asking().data, training, 3)
        expected = []
        for key in range(source.size):
            shown = example_scene(key, 3, True, not training)
            expected += [*shown.captions, *question(key, 0, 3, shown)]
        assert list(source.all_captions()) == expected
        assert any(text.endswith("?") for text in expected) and "yes" in expected


def test_scenes_without_questions_have_none() -> None:
    (batch,) = training(asking(scenes={"questions": False}), 1)
    assert not batch.keys() & {"question", "answer", "questions", "answers", "label"} and all(batch["captions"])


def test_moving_scenes_are_not_asked_about() -> None:
    with pytest.raises(UserError, match=r"data\.scenes\.questions: are asked about images, not clips of 3 frames"):
        asking(frames=3)
