"""The specification of an evaluator: its metrics, and what it needs of the data and the model."""

from collections.abc import Callable
from dataclasses import dataclass

from mmjax import registry
from mmjax.config import Config
from mmjax.types import Evaluator, UserError


def _no_check(config: Config) -> None:
    pass


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
    check: Callable[[Config], None] = _no_check


def find(config: Config) -> dict[str, EvaluatorSpec]:
    """The evaluators of a config by name, in its order, and the samples where it asks for any."""
    names = list(dict.fromkeys(config.evaluate.evaluators))
    if config.evaluate.samples and "samples" not in names:
        names.append("samples")
    return {name: registry.find("evaluator", name, "evaluate.evaluators") for name in names}


def check_images(name: str, config: Config) -> None:
    """Raises UserError for clips."""
    if config.data.frames > 1:
        raise UserError(
            f"evaluate.evaluators: {name} is for images, and data.frames is {config.data.frames}; motion is for clips"
        )
