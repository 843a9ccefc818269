"""The training loss on the evaluation set."""

from collections.abc import Callable, Iterable

from mmjax import registry
from mmjax.config import Config
from mmjax.evaluate.rows import Mean, predicted
from mmjax.evaluate.spec import EvaluatorSpec
from mmjax.types import Batch, Predict, Results


def losses(predict: Predict, batches: Callable[[], Iterable[Batch]]) -> Results:
    """Yields the mean over examples of "loss" and of each term by its name; NaN without examples.

    `predict` gives "loss" [b], weighted as in training, and "terms/NAME" [b], unweighted.
    """
    mean = Mean()
    mean.add("loss", [])
    for _, outputs in predicted(predict, batches):
        mean.add("loss", outputs["loss"])
        for name, values in outputs.items():
            if name.startswith("terms/"):
                mean.add(name.removeprefix("terms/"), values)
    yield from mean.metrics()


def _metrics(config: Config) -> tuple[str, ...]:
    """Those of the discriminator are measured in training alone."""
    terms = ((name, registry.find("loss", term.kind, f"losses.{name}.kind")) for name, term in config.losses.items())
    return ("loss", *(name for name, spec in terms if not spec.adversarial))


EVALUATOR = EvaluatorSpec(build=lambda config: losses, metrics=_metrics)
