"""What an evaluator is: the metrics it gives, and what it needs of the data and of the model."""

from collections.abc import Callable
from dataclasses import dataclass

from mmjax import registry
from mmjax.config import Config
from mmjax.types import Evaluator, UserError


def _no_check(config: Config) -> None:
    pass


@dataclass(frozen=True)
class EvaluatorSpec:
    """An evaluator that a config may name.

    Attributes:
        build: (config) -> the evaluator; see mmjax.types.
        metrics: (config) -> the names of the metrics that it yields.
        predictions: what it reads of the model in evaluation: "image", "codes", "caption", "answer", "class_logits",
            "image_embedding", "text_embedding". Images are sampled and texts decoded only if an evaluator reads them.
        shows: predictions that it reads where the model gives them.
        fields: of the batch that it reads, beside those of every batch.
        check: (config) raises UserError for data that it is not for.
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
