"""The specification of an evaluator: its metrics, and what it needs of the data and the model."""

from collections.abc import Callable
from dataclasses import dataclass

from mmjax.config import Config
from mmjax.types import Evaluator


@dataclass(frozen=True)
class EvaluatorSpec:
    """An evaluator that a config can name.

    Attributes:
        build: (config) -> the evaluator; see mmjax.types.
        metrics: (config) -> the names of its metrics.
        predictions: model outputs that it needs: "image", "codes", "caption", "answer", "class_logits",
            "image_embedding", "text_embedding". Images and texts are generated only if an evaluator needs them.
        shows: outputs that it uses if the model has them.
        fields: of the batch that it needs, besides those of every batch.
        check: (config) raises UserError for data that it does not support.
    """

    build: Callable[[Config], Evaluator]
    metrics: Callable[[Config], tuple[str, ...]]
    predictions: tuple[str, ...] = ()
    shows: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    check: Callable[[Config], None] = lambda config: None
