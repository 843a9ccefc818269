"""Codebook usage of a visual tokenizer."""

import math
from collections.abc import Callable, Iterable

import numpy as np

from mmjax.evaluate.spec import EvaluatorSpec
from mmjax.types import Batch, Evaluator, Predict, Results


def codes(count: int) -> Evaluator:
    """An evaluator that yields "tokenizer/code_usage": the fraction of `count` codes that occur in the set."""

    def evaluate(predict: Predict, batches: Callable[[], Iterable[Batch]]) -> Results:
        used = np.zeros(count, np.bool_)
        for batch in batches():
            used[predict(batch)["codes"][batch["mask"]]] = True
        yield "tokenizer/code_usage", float(used.mean())

    return evaluate


EVALUATOR = EvaluatorSpec(
    build=lambda config: codes(math.prod(getattr(config.model, "levels", ()))),
    metrics=lambda config: ("tokenizer/code_usage",),
    predictions=("codes",),
    fields=("image",),
)
