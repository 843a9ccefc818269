"""Classification accuracy."""

from collections.abc import Callable, Iterable

import numpy as np

from mmjax.evaluate.rows import Mean, predicted
from mmjax.evaluate.spec import EvaluatorSpec
from mmjax.types import Batch, Predict, Results


def classification(predict: Predict, batches: Callable[[], Iterable[Batch]]) -> Results:
    """Yields "classification/accuracy": the fraction of labeled examples that `class_logits` [b, k] get right."""
    mean = Mean()
    mean.add("classification/accuracy", [])
    for batch, outputs in predicted(predict, batches):
        labeled = batch["label"] >= 0
        chosen = np.argmax(outputs["class_logits"], axis=-1)
        mean.add("classification/accuracy", (chosen == batch["label"])[labeled])
    yield from mean.metrics()


EVALUATOR = EvaluatorSpec(
    build=lambda config: classification,
    metrics=lambda config: ("classification/accuracy",),
    predictions=("class_logits",),
    fields=("label",),
)
