"""How far the colors that the model draws are from those that the captions name."""

from collections.abc import Callable, Iterable

from mmjax.evaluate import EvaluatorSpec
from mmjax.evaluate.rows import Mean, predicted
from mmjax.types import Batch, Predict, Results


def color_error(predict: Predict, batches: Callable[[], Iterable[Batch]]) -> Results:
    """Yields "color_error", the mean absolute error of the mean color, -1 to 1, over the evaluation set."""
    mean = Mean()
    for batch, outputs in predicted(predict, batches):
        drawn = outputs["image"].mean(axis=(1, 2))
        mean.add("color_error", abs(drawn - batch["color"]).mean(axis=-1))
    yield from mean.metrics()


EVALUATOR = EvaluatorSpec(
    build=lambda config: color_error,
    metrics=lambda config: ("color_error",),
    predictions=("image",),  # of the model
    fields=("color",),  # of the source
)
