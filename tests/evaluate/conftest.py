"""A small evaluation set with padding, and a model that has an answer for every example."""

from collections.abc import Iterator

import numpy as np
import pytest

from mmjax.types import Batch


class EvaluationSet:
    """`examples` random images (or clips) in batches of 5; the last is filled up with rows that count for nothing.

    Attributes:
        drawn: what `predict` answers for each example, -1 to 1 (float32 [n, y, x, c] or [n, f, y, x, c]).
        passes, calls: how often a pass was started and `predict` called.
    """

    def __init__(self, examples: int, side: int = 13, frames: tuple[int, ...] = ()):
        rng = np.random.default_rng(0)
        shape = (examples, *frames, side, side + 4, 3)
        self.examples = examples
        self.original = rng.uniform(-1, 1, shape).astype(np.float32)
        self.drawn = (self.original + rng.normal(0, 0.3, shape)).astype(np.float32)
        self.losses = rng.uniform(0, 3, examples).astype(np.float32)
        self.passes = self.calls = 0

    def batches(self) -> Iterator[Batch]:
        self.passes += 1
        for start in range(0, self.examples, 5):
            mask = np.arange(start, start + 5) < self.examples
            rows = np.where(mask, np.arange(start, start + 5), 0)
            yield {
                "image": self.original[rows],
                "text": np.zeros((5, 3), np.int32),
                "mask": mask,
                "id": [str(row) for row in rows],
                "captions": [[f"caption {row}", "another"] for row in rows],
            }

    def predict(self, batch: Batch) -> dict[str, np.ndarray]:
        self.calls += 1
        rows, real = [int(name) for name in batch["id"]], batch["mask"]
        # Padding gets answers that would spoil every mean.
        loss = np.where(real, self.losses[rows], np.float32(np.nan))
        image = np.where(real.reshape(-1, *[1] * (self.drawn.ndim - 1)), self.drawn[rows], np.float32(9))
        return {"image": image, "loss": loss, "terms/mean_squared_error": 2 * loss, "terms/other": loss + 1}


@pytest.fixture
def evaluation_set() -> type[EvaluationSet]:
    return EvaluationSet
