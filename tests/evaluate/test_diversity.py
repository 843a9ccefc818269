"""Diversity: 1 for real scenes, 0 for a single image per caption, and how the model is called."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from mmjax.evaluate.scenes import distance, diversity
from mmjax.scenes.draw import draw, example
from mmjax.scenes.grammar import parse
from mmjax.types import Batch

CAPTIONS = [example(i, 32, seed=1, fully_specified=False, held_out=True)[1] for i in range(11)]


class Asked:
    """An evaluation set of captions, and a model that draws what `image(caption, seed)` gives, uint8."""

    def __init__(
        self, image: Callable[[str, int], np.ndarray], rows: int = 5, captions: list[str] = CAPTIONS, size: int = 37
    ):
        self.image, self.rows, self.captions, self.size = image, rows, captions, size
        self.batches_asked: list[Batch] = []
        self.batches_read = 0

    def batches(self) -> Iterator[Batch]:
        for start in range(0, len(self.captions), self.rows):
            self.batches_read += 1
            captions = self.captions[start : start + self.rows]
            missing = self.rows - len(captions)
            numbers = [self.captions.index(caption) for caption in captions] + [-1] * missing
            yield {
                "image": np.zeros((self.rows, self.size, self.size, 3), np.float32),
                "text": np.array(numbers, np.int32)[:, None],
                "mask": np.array([True] * len(captions) + [False] * missing),
                "id": [str(number) for number in numbers],
                "captions": [[caption, "never read"] for caption in captions] + [[]] * missing,
            }

    def predict(self, batch: Batch) -> dict[str, np.ndarray]:
        self.batches_asked.append(batch)
        drawn = [
            self.image(self.captions[int(text[0])], int(seed))
            for text, seed in zip(batch["text"], batch["seed"], strict=True)
        ]
        return {"image": np.stack(drawn).astype(np.float32) / 127.5 - 1}

    def metric(self) -> float:
        (name, value), *others = diversity(self.predict, self.batches)
        assert name == "scenes/diversity" and not others and isinstance(value, float)
        return value


def real(caption: str, seed: int) -> np.ndarray:
    return draw(parse(caption), 37, np.random.default_rng((100, seed)))


def test_distance_equals_the_definition() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 7, 11, 3), dtype=np.uint8)
    pairs = [np.sqrt(np.mean((a / 255 - b / 255) ** 2)) for a, b in itertools.combinations(images, 2)]
    assert distance(images) == pytest.approx(np.mean(pairs))
    black_white = np.stack([np.zeros((7, 11, 3), np.uint8), np.full((7, 11, 3), 255, np.uint8)])
    assert distance(black_white) == pytest.approx(1)


def test_real_scenes_have_diversity_one() -> None:
    assert Asked(real).metric() == pytest.approx(1, abs=0.05)


def test_one_image_per_caption_has_diversity_zero() -> None:
    assert Asked(lambda caption, seed: real(caption, 0)).metric() == 0


def test_half_the_contrast_has_diversity_one_half() -> None:
    full, half = (
        Asked(lambda caption, seed, c=c: np.uint8(np.rint(c * real(caption, seed)))).metric() for c in (1, 0.5)
    )
    assert half == pytest.approx(full / 2, rel=0.01)


def test_two_alternating_images() -> None:
    # Of the 120 pairs of 16 images 64 differ.
    model = Asked(lambda caption, seed: np.full((37, 37, 3), 51 * (seed % 2), np.uint8), captions=CAPTIONS[:1])
    truth = [draw(parse(CAPTIONS[0]), 37, np.random.default_rng((0, seed))) for seed in range(16)]
    assert model.metric() == pytest.approx(0.2 * 64 / 120 / distance(np.stack(truth)))


@pytest.mark.parametrize("rows", [3, 16, 131])
def test_every_seed_is_generated_in_full_batches(rows: int) -> None:
    captions = [CAPTIONS[0], CAPTIONS[0], *CAPTIONS[1:]]
    model = Asked(real, rows, captions)
    assert model.metric() == pytest.approx(Asked(real).metric())
    asked = [
        (captions[int(text[0])], int(seed))
        for batch in model.batches_asked
        for text, seed in zip(batch["text"], batch["seed"], strict=True)
    ]
    assert asked[:128] == list(itertools.product(CAPTIONS[:8], range(16)))
    assert len(asked) == -(-128 // rows) * rows and set(asked[128:]) <= {(CAPTIONS[7], 15)}
    for batch in model.batches_asked:
        assert batch["seed"].dtype == np.int32 and batch["text"].dtype == np.int32
        assert all(len(value) == rows for value in batch.values()) and batch["mask"].all()
        assert batch["image"].shape == (rows, 37, 37, 3)
        told = [captions[int(text[0])] for text in batch["text"]]
        assert [row[0] for row in batch["captions"]] == told


def test_reads_only_what_is_needed() -> None:
    model = Asked(real)
    model.metric()
    assert model.batches_read == 2
    few = Asked(real, captions=CAPTIONS[:2])
    assert few.metric() == pytest.approx(1, abs=0.1) and len(few.batches_asked) == 7


def test_no_examples_gives_no_metric() -> None:
    model = Asked(real, captions=[])
    assert not list(diversity(model.predict, model.batches)) and not model.batches_asked


def test_examples_without_captions_are_ignored() -> None:
    model = Asked(real, captions=CAPTIONS[:2])
    (batch,) = model.batches()
    blank = {**batch, "captions": [[], [], *batch["captions"][2:]]}
    whole, none = (dict(diversity(model.predict, lambda b=b: [blank, b])) for b in (batch, blank))  # type: ignore[misc]
    assert whole == {"scenes/diversity": model.metric()} and none == {}
