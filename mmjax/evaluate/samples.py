"""Samples to look at: generated images or clips beside the originals, or images with generated text."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from mmjax.evaluate.rows import predicted
from mmjax.evaluate.spec import EvaluatorSpec
from mmjax.sample.postprocess import to_uint8
from mmjax.types import Batch, Evaluator, Predict, Results, Samples


def samples(count: int, frame_rate: float = 8.0) -> Evaluator:
    """An evaluator that yields "samples": the first `count` examples, generated and, if in the batch, original.

    For a model that generates text: the original images, with their texts as prompts.

    Args:
        frame_rate: of clips, in frames a second.
    """

    def evaluator(predict: Predict, batches: Callable[[], Iterable[Batch]]) -> Results:
        prompts: list[str] = []
        shown: dict[str, list[np.ndarray]] = {"generated": [], "original": []}
        for batch, outputs in predicted(predict, batches) if count else ():
            if "image" in outputs:
                prompts += [captions[0] if captions else "" for captions in batch["captions"]]
                shown["generated"].extend(_rgb(outputs["image"]))
            else:
                prompts += _written(batch, outputs)
            if "image" in batch:  # a batch may hold codes alone
                shown["original"].extend(_rgb(batch["image"]))
            if len(prompts) >= count:
                break
        if prompts:
            rows = {name: np.stack(images[:count]) for name, images in shown.items() if images}
            yield "samples", Samples(prompts[:count], rows, frame_rate)

    return evaluator


def _rgb(images: np.ndarray) -> np.ndarray:
    """Images to look at; spectrograms have one channel."""
    return np.broadcast_to(to_uint8(images), (*images.shape[:-1], 3))


def _written(batch: Batch, outputs: dict[str, Any]) -> list[str]:
    """The generated texts of each example: its caption, and its question with the answer."""
    captions, answers = (outputs.get(name, [""] * len(batch["id"])) for name in ("caption", "answer"))
    questions = batch.get("questions", [""] * len(batch["id"]))
    asked = [f"{question} {answer}" if question else "" for question, answer in zip(questions, answers, strict=True)]
    return ["; ".join(filter(None, both)) for both in zip(captions, asked, strict=True)]


EVALUATOR = EvaluatorSpec(
    build=lambda config: samples(config.evaluate.samples, config.data.frame_rate),
    metrics=lambda config: (),
    shows=("image",),
)
