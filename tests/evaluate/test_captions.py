"""The caption evaluator: valid examples, metrics, and missing METEOR."""

import logging

import numpy as np
import pytest

from mmjax import evaluate
from mmjax.config import resolve
from mmjax.evaluate import captions as caption_metrics
from mmjax.evaluate.captions import NAMES, bleu, captions, cider, metric_names, rouge_l

# What the model writes, and what people wrote.
EXAMPLES = [
    ("A man's dog.", ["a dog of a man", "The man 's dog"]),
    ("two cats on a red mat", ["Two cats on a mat.", "cats, lying on a mat", "a mat"]),
    ("a train", ["A large train at a station"]),
    ("", ["nothing is written"]),
]
TOKENS = (
    [["a", "man", "'s", "dog"], ["two", "cats", "on", "a", "red", "mat"], ["a", "train"], []],
    [
        [["a", "dog", "of", "a", "man"], ["the", "man", "'s", "dog"]],
        [["two", "cats", "on", "a", "mat"], ["cats", "lying", "on", "a", "mat"], ["a", "mat"]],
        [["a", "large", "train", "at", "a", "station"]],
        [["nothing", "is", "written"]],
    ],
)


def batches(examples: list[tuple[str, list[str]]]):
    """Batches of three with rows that do not count: an example without captions, and padding."""
    for start in range(0, len(examples), 2):
        rows = [*examples[start : start + 2], ("never read", [])]
        padding = 4 - len(rows)
        yield {
            "mask": np.array([True] * len(rows) + [False] * padding),
            "captions": [own for _, own in rows] + [["padding"]] * padding,
            "written": [text for text, _ in rows] + ["something else"] * padding,
        }


def metrics(examples: list[tuple[str, list[str]]]) -> dict[str, float]:
    return dict(captions()(lambda batch: {"caption": batch["written"]}, lambda: batches(examples)))


@pytest.fixture
def without_meteor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_metrics, "_jar", lambda: None)


@pytest.fixture
def with_meteor(monkeypatch: pytest.MonkeyPatch) -> list:
    seen: list = []
    monkeypatch.setattr(caption_metrics, "missing_meteor", lambda: "")
    monkeypatch.setattr(caption_metrics, "meteor", lambda *given: seen.append(given) or 0.25)
    return seen


def test_all_captions_of_valid_examples_are_compared(with_meteor: list) -> None:
    found = metrics(EXAMPLES)
    assert tuple(found) == (*NAMES, "captions/meteor") == metric_names()
    assert [found[f"captions/bleu_{n}"] for n in (1, 2, 3, 4)] == bleu(*TOKENS)
    assert found["captions/rouge_l"] == rouge_l(*TOKENS) and found["captions/cider"] == cider(*TOKENS)
    assert found["captions/meteor"] == 0.25 and with_meteor == [TOKENS]


@pytest.mark.usefixtures("without_meteor")
def test_cider_is_at_most_ten() -> None:
    right = [("a cat on a mat", ["a cat on a mat"]), ("two dogs run far", ["two dogs run far"])]
    assert metrics(right)["captions/cider"] == pytest.approx(10)
    assert metrics([(text.replace("a", "the"), own) for text, own in right])["captions/cider"] < 5


@pytest.mark.usefixtures("without_meteor")
def test_missing_meteor_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    evaluator = captions()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            found = dict(evaluator(lambda batch: {"caption": batch["written"]}, lambda: batches(EXAMPLES)))
            assert tuple(found) == NAMES == metric_names()
    (record,) = caplog.records
    assert record.getMessage().startswith("captions/meteor is left out: METEOR needs ")
    assert record.getMessage().endswith("pycocoevalcap (pip install '.[captions]')")


@pytest.mark.usefixtures("without_meteor")
def test_no_captions_gives_no_metric() -> None:
    assert metrics([("a cat", []), ("a dog", [])]) == {}


@pytest.mark.usefixtures("without_meteor")
def test_registered() -> None:
    config = resolve(
        {
            "model": {"kind": "vision_language"},
            "losses": {"captioning": {}},
            "train": {"steps": 1},
            "evaluate": {"evaluators": ["captions"], "samples": 0},
        }
    )
    assert list(evaluate.build(config)) == ["captions"]
    assert evaluate.EVALUATORS["captions"].predictions == ("caption",)
    assert evaluate.metric_names(config) == NAMES
