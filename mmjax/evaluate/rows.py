"""The common input of evaluators, valid examples with the model's outputs, and means over them."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from mmjax.types import Batch, Evaluator, Predict, Results


def predicted(
    predict: Predict, batches: Callable[[], Iterable[Batch]]
) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
    """One pass over the evaluation set: batches and outputs without the rows that `mask` marks as padding.

    The model runs on every batch, even if no row is left, since all processes must take part.
    """
    for batch in batches():
        outputs = predict(batch)
        keep = np.asarray(batch["mask"], bool)
        yield _rows(batch, keep), _rows(outputs, keep)


def _rows(fields: Mapping[str, Any], keep: np.ndarray) -> dict[str, Any]:
    return {
        name: list(itertools.compress(values, keep)) if isinstance(values, list) else np.asarray(values)[keep]
        for name, values in fields.items()
    }


class Mean:
    """Means of named values over examples, in double precision."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, values: Any) -> None:
        """Adds one value for each example, [b]."""
        values = np.asarray(values, np.float64)
        self._sums[name] = self._sums.get(name, 0.0) + float(values.sum())
        self._counts[name] = self._counts.get(name, 0) + values.size

    def metrics(self) -> Iterator[tuple[str, float]]:
        """Yields (name, mean) of those with examples."""
        for name, total in self._sums.items():
            if self._counts[name]:
                yield name, total / self._counts[name]


def averaged(score: Callable[[Batch, dict[str, np.ndarray]], Mapping[str, Any]]) -> Evaluator:
    """The evaluator that yields the means of score(batch, outputs) -> {name: one value for each example}."""

    def evaluate(predict: Predict, batches: Callable[[], Iterable[Batch]]) -> Results:
        mean = Mean()
        for batch, outputs in predicted(predict, batches):
            for name, values in score(batch, outputs).items():
                mean.add(name, values)
        yield from mean.metrics()

    return evaluate
