"""Classification accuracy: of trained classes, and zero-shot."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from mmjax.config import Config
from mmjax.evaluate.rows import Mean, averaged
from mmjax.evaluate.spec import EvaluatorSpec
from mmjax.types import Batch, Evaluator, Predict, Results, UserError


def _right(batch: Batch, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Whether `class_logits` [b, k] get each labeled example right."""
    chosen = np.argmax(outputs["class_logits"], axis=-1)
    return {"classification/accuracy": (chosen == batch["label"])[batch["label"] >= 0]}


classification = averaged(_right)


def zero_shot(classes: Sequence[str], prompts: Sequence[str]) -> Evaluator:
    """An evaluator that yields "zero_shot/accuracy" (Radford et al. 2021).

    The embedding of a class is the normalized mean over its prompts; an image is classified by the largest cosine.

    Args:
        classes: the name of each label.
        prompts: templates with {} for the name, as in "a photo of a {}".

    Raises:
        UserError: for a label without a name.
    """

    def evaluate(predict: Predict, batches: Callable[[], Iterable[Batch]]) -> Results:
        mean, embedded = Mean(), None
        for batch in batches():
            label = batch["label"]
            if label.max(initial=-1) >= len(classes):
                raise UserError(
                    f"evaluate.classes: names {len(classes)} classes, the labels from 0 on, but there is a label "
                    f"{label.max()}"
                )
            if embedded is None:
                embedded = _embed(predict, batch, classes, prompts)
            chosen = np.argmax(predict(batch)["image_embedding"] @ embedded.T, axis=-1)
            mean.add("zero_shot/accuracy", (chosen == label)[batch["mask"] & (label >= 0)])
        yield from mean.metrics()

    return evaluate


def _embed(
    predict: Predict, batch: Batch, classes: Sequence[str], prompts: Sequence[str]
) -> Float[np.ndarray, "classes e"]:
    """The embedding of each class; the batch's images are the model's other input."""
    texts = [prompt.replace("{}", name) for name in classes for prompt in prompts]
    rows = len(batch["mask"])
    found = []
    for start in range(0, len(texts), rows):
        part = texts[start : start + rows]
        found.append(predict({**batch, "text": part + [""] * (rows - len(part))})["text_embedding"][: len(part)])
    means = np.concatenate(found).reshape(len(classes), len(prompts), -1).mean(axis=1)
    return means / np.linalg.norm(means, axis=-1, keepdims=True)


def _check_classes(config: Config) -> None:
    if not config.evaluate.classes:
        raise UserError(
            "evaluate.classes: zero_shot needs the classes' names in the order of their labels, as in ('cat', 'dog')"
        )


CLASSIFICATION = EvaluatorSpec(
    build=lambda config: classification,
    metrics=lambda config: ("classification/accuracy",),
    predictions=("class_logits",),
    fields=("label",),
)
ZERO_SHOT = EvaluatorSpec(
    build=lambda config: zero_shot(config.evaluate.classes, config.evaluate.prompts),
    metrics=lambda config: ("zero_shot/accuracy",),
    predictions=("image_embedding", "text_embedding"),
    fields=("image", "label"),
    check=_check_classes,
)
