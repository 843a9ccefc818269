"""Evaluators by name: small generators of metrics, the same in the training loop and from the command line."""

from mmjax import registry
from mmjax.config import Config
from mmjax.evaluate import (
    answers,
    captions,
    classification,
    emoji,
    losses,
    reconstruction,
    retrieval,
    samples,
    scenes,
)
from mmjax.evaluate.report import write_report as write_report
from mmjax.evaluate.runner import run as run
from mmjax.evaluate.runner import write as write
from mmjax.evaluate.spec import EvaluatorSpec as EvaluatorSpec
from mmjax.types import Evaluator, UserError

EVALUATORS: dict[str, EvaluatorSpec] = {
    "answers": answers.EVALUATOR,
    "caption_faithfulness": scenes.CAPTION_FAITHFULNESS,
    "captions": captions.EVALUATOR,
    "classification": classification.CLASSIFICATION,
    "codes": reconstruction.CODES,
    "diversity": scenes.DIVERSITY,
    "emoji": emoji.EVALUATOR,
    "feature_distance": reconstruction.FEATURE_DISTANCE,
    "losses": losses.EVALUATOR,
    "motion": scenes.MOTION,
    "reconstruction": reconstruction.RECONSTRUCTION,
    "retrieval": retrieval.EVALUATOR,
    "samples": samples.EVALUATOR,
    "scenes": scenes.SCENES,
    "zero_shot": classification.ZERO_SHOT,
}


def find(config: Config) -> dict[str, EvaluatorSpec]:
    """The evaluators of a config by name, in its order, and the samples where it asks for any."""
    names = [*config.evaluate.evaluators, *(["samples"] if config.evaluate.samples else [])]
    return {name: registry.find("evaluator", name, "evaluate.evaluators") for name in names}


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
        if lacking := [needed for needed in spec.fields if needed not in given]:
            raise UserError(
                f"evaluate.evaluators: {name} needs {lacking[0]!r}, which {by} does not provide (it provides "
                f"{', '.join(given)})"
            )


def metric_names(config: Config) -> tuple[str, ...]:
    """The names of the metrics that a config's evaluators yield."""
    return tuple(metric for spec in find(config).values() for metric in spec.metrics(config))
