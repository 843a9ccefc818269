"""The training loss on the evaluation set."""

from collections.abc import Mapping
from typing import Any

from mmjax import registry
from mmjax.config import Config
from mmjax.evaluate.rows import averaged
from mmjax.evaluate.spec import EvaluatorSpec
from mmjax.types import Batch


def _losses(batch: Batch, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Of each example the "loss" [b], weighted as in training, and each term "terms/NAME" [b], unweighted."""
    terms = {name.removeprefix("terms/"): x for name, x in outputs.items() if name.startswith("terms/")}
    return {"loss": outputs["loss"], **terms}


losses = averaged(_losses)


def _metrics(config: Config) -> tuple[str, ...]:
    """Those of the discriminator are measured in training alone."""
    terms = ((name, registry.find("loss", term.kind, f"losses.{name}.kind")) for name, term in config.losses.items())
    return ("loss", *(name for name, spec in terms if not spec.adversarial))


EVALUATOR = EvaluatorSpec(build=lambda config: losses, metrics=_metrics)
