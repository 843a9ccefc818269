"""Retrieval against brute force over sorted lists, chance, ties, and shared captions."""

import importlib
from collections.abc import Iterator

import numpy as np
import pytest

from mmjax.evaluate.retrieval import NAMES, retrieval
from mmjax.types import Batch


class Embedded:
    """An evaluation set whose images and captions have given embeddings, in batches of 7 with rows that do not count:
    the third of each is without captions, the last is padding.

    Attributes:
        images: float32 [n, e].
        captions: of each image.
        texts: embedding by caption.
    """

    def __init__(self, images: np.ndarray, captions: list[list[str]], texts: dict[str, np.ndarray]):
        self.images, self.captions, self.texts = images, captions, texts
        self.asked: list[list[str]] = []

    def batches(self) -> Iterator[Batch]:
        for start in range(0, len(self.images), 5):
            real = list(range(start, min(start + 5, len(self.images))))
            rows = [*real[:2], -1, *real[2:], *[-2] * (6 - len(real))]
            yield {
                "row": rows,
                "mask": np.array([row != -2 for row in rows]),
                "text": np.zeros((7, 3), np.int32),
                "captions": [[] if row == -1 else ["padding"] if row == -2 else self.captions[row] for row in rows],
            }

    def predict(self, batch: Batch) -> dict[str, np.ndarray]:
        assert len(batch["text"]) == 7
        self.asked.append(batch["text"])
        nothing = np.full(self.images.shape[1], np.nan, np.float32)  # would spoil every metric
        return {
            "image_embedding": np.stack([nothing if row < 0 else self.images[row] for row in batch["row"]]),
            "text_embedding": np.stack([self.texts.get(text, nothing) for text in batch["text"]]),
        }

    def metrics(self) -> dict[str, float]:
        found = dict(retrieval(self.predict, self.batches))
        assert tuple(found) == NAMES
        return found


def unit(values: np.ndarray) -> np.ndarray:
    return (values / np.linalg.norm(values, axis=-1, keepdims=True)).astype(np.float32)


def random_set(count: int, seed: int, noise: float, vocabulary: int = 10**9) -> Embedded:
    """Captions lie near their image; with a small vocabulary several images share some."""
    rng = np.random.default_rng(seed)
    images = unit(rng.normal(size=(count, 11)))
    texts: dict[str, np.ndarray] = {}
    captions = []
    for image in images:
        own = [f"caption {number}" for number in rng.integers(vocabulary, size=rng.integers(1, 8))]
        captions.append(own)
        for text in own[:5]:
            texts.setdefault(text, unit(image + noise * rng.normal(size=11)))
    return Embedded(images, captions, texts)


def brute_force(data: Embedded) -> dict[str, float]:
    texts = [(text, i) for i, own in enumerate(data.captions) for text in own[:5]]
    says = [set(own[:5]) for own in data.captions]
    forth: dict[int, list[bool]] = {1: [], 5: [], 10: []}
    back: dict[int, list[bool]] = {1: [], 5: [], 10: []}
    for i, image in enumerate(data.images):
        order = sorted(texts, key=lambda pair: -float(image @ data.texts[pair[0]]))
        for k, found in forth.items():
            found.append(any(text in says[i] for text, _ in order[:k]))
    for text, _ in texts:
        order = sorted(range(len(data.images)), key=lambda i: -float(data.images[i] @ data.texts[text]))
        for k, found in back.items():
            found.append(any(text in says[i] for i in order[:k]))
    return {
        f"retrieval/{name}_r{k}": float(np.mean(found[k]))
        for name, found in (("image_to_text", forth), ("text_to_image", back))
        for k in (1, 5, 10)
    }


@pytest.mark.parametrize(("noise", "vocabulary"), [(0.3, 10**9), (1.0, 10**9), (1.0, 60)])
def test_equals_brute_force(noise: float, vocabulary: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("mmjax.evaluate.retrieval"), "ROWS", 13)
    data = random_set(47, 3, noise, vocabulary)
    found = data.metrics()
    assert found == brute_force(data)
    assert 0.02 < found["retrieval/image_to_text_r1"] < 1 and 0.02 < found["retrieval/text_to_image_r1"] < 1


def test_perfect_and_mirrored_embeddings() -> None:
    data = random_set(47, 0, 0.0)
    assert set(data.metrics().values()) == {1.0}
    data.texts = {text: -embedding for text, embedding in data.texts.items()}
    assert set(data.metrics().values()) == {0.0}


def test_random_embeddings_are_at_chance() -> None:
    rng = np.random.default_rng(0)
    captions = [[f"{i} {j}" for j in range(5)] for i in range(400)]
    texts = {text: unit(rng.normal(size=32)) for own in captions for text in own}
    found = Embedded(unit(rng.normal(size=(400, 32))), captions, texts).metrics()
    # k of 400 images; and of 2,000 captions with five right ones, 1 - (1 - 5 / 2000) ** k.
    for k in (1, 5, 10):
        for name, chance, tries in (
            ("text_to_image", k / 400, 2000),
            ("image_to_text", 1 - (1 - 5 / 2000) ** k, 400),
        ):
            error = 4 * np.sqrt(chance / tries)
            assert found[f"retrieval/{name}_r{k}"] == pytest.approx(chance, abs=error)


def test_constant_embeddings_find_nothing() -> None:
    captions = [[f"{i} {j}" for j in range(5)] for i in range(47)]
    same = unit(np.random.default_rng(0).normal(size=11))
    data = Embedded(np.tile(same, (47, 1)), captions, {text: same for own in captions for text in own})
    assert set(data.metrics().values()) == {0.0}
    broken = np.full(11, np.nan, np.float32)
    data.texts = dict.fromkeys(data.texts, broken)
    assert set(data.metrics().values()) == {0.0}


def test_shared_captions_belong_to_all_their_images() -> None:
    # Two images side by side, both "a cat" in other words' case; a third far away.
    images = unit(np.array([[1, 0, 0], [1, 0.1, 0], [0, 0, 1]]))
    near, far = unit(np.array([1, 0.1, 0])), unit(np.array([0, 0, 1]))
    found = Embedded(
        images, [["a cat"], ["A  cat"], ["a dog"]], {"a cat": near, "A  cat": near, "a dog": far}
    ).metrics()
    assert set(found.values()) == {1.0}


def test_captions_of_a_scene_from_either_side_mean_the_same() -> None:
    sides = ["a red circle left of a blue ring", "a blue ring right of a red circle"]
    images = unit(np.array([[1, 0], [1, 0.1]]))
    texts = dict(zip(sides, images[::-1], strict=True))  # each is nearest to the other's image
    assert set(Embedded(images, [[text] for text in sides], texts).metrics().values()) == {1.0}


def test_only_the_first_five_captions_are_embedded() -> None:
    data = random_set(7, 1, 0.5)
    data.captions[0] = [f"caption {i}" for i in range(9)]
    data.texts |= {f"caption {i}": data.images[0] for i in range(9)}
    data.metrics()
    asked = {text for texts in data.asked for text in texts}
    assert {text for own in data.captions for text in own[:5]} | {"", "padding"} == asked


def test_no_captions_gives_no_metric() -> None:
    data = Embedded(unit(np.ones((3, 5))), [[], [], []], {})
    assert not list(retrieval(data.predict, data.batches))
    assert len(data.asked) == 1  # all processes must take part
