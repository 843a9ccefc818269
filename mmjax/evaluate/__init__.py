"""Evaluators by name: small generators of metrics, the same in the training loop and from the command line."""

from mmjax import registry
from mmjax.config import Config
from mmjax.evaluate import (
    answers,
    caption_faithfulness,
    captions,
    classification,
    codes,
    diversity,
    feature_distance,
    losses,
    motion,
    reconstruction,
    retrieval,
    samples,
    scenes,
    zero_shot,
)
from mmjax.evaluate.report import write_report
from mmjax.evaluate.runner import run, write
from mmjax.evaluate.spec import EvaluatorSpec, find
from mmjax.types import Evaluator, UserError

__all__ = [
    "EVALUATORS",
    "EvaluatorSpec",
    "build",
    "check_fields",
    "find",
    "metric_names",
    "run",
    "write",
    "write_report",
]

EVALUATORS: dict[str, EvaluatorSpec] = {
    "answers": answers.EVALUATOR,
    "caption_faithfulness": caption_faithfulness.EVALUATOR,
    "captions": captions.EVALUATOR,
    "classification": classification.EVALUATOR,
    "codes": codes.EVALUATOR,
    "diversity": diversity.EVALUATOR,
    "feature_distance": feature_distance.EVALUATOR,
    "losses": losses.EVALUATOR,
    "motion": motion.EVALUATOR,
    "reconstruction": reconstruction.EVALUATOR,
    "retrieval": retrieval.EVALUATOR,
    "samples": samples.EVALUATOR,
    "scenes": scenes.EVALUATOR,
    "zero_shot": zero_shot.EVALUATOR,
}


def build(config: Config) -> dict[str, Evaluator]:
    """The evaluators of a config, by name.

    Raises:
        UserError: for one that the config's model or data are not for.
    """
    predictions = registry.find("model", config.model.kind, "model.kind").predictions(config)
    found = find(config)
    for name, spec in found.items():
        if lacking := [needed for needed in spec.predictions if needed not in predictions]:
            raise UserError(
                f"evaluate.evaluators: {name} reads {lacking[0]!r} of the model; model.kind={config.model.kind} with "
                f"the losses {', '.join(config.losses)} gives {', '.join(predictions) or 'none'}"
            )
        spec.check(config)
    return {name: spec.build(config) for name, spec in found.items()}


def check_fields(config: Config, given: tuple[str, ...], by: str) -> None:
    """Raises UserError for an evaluator that reads other fields of the batch than are given."""
    for name, spec in find(config).items():
        for needed in spec.fields:
            if needed not in given:
                raise UserError(
                    f"evaluate.evaluators: {name} needs {needed!r}, which {by} does not provide (it provides "
                    f"{', '.join(given)})"
                )


def metric_names(config: Config) -> tuple[str, ...]:
    """The names of the metrics that a config's evaluators yield."""
    return tuple(metric for spec in find(config).values() for metric in spec.metrics(config))
