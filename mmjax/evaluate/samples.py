"""Pictures or clips to look at beside the originals."""

from collections.abc import Callable, Iterable

import numpy as np

from mmjax.evaluate.rows import predicted
from mmjax.sample.postprocess import to_uint8
from mmjax.types import Batch, Evaluator, Figures, Predict, Samples


def samples(count: int, frame_rate: float = 8.0) -> Evaluator:
    """An evaluator that yields "samples": the first `count` examples, drawn by the model and, where the batches have
    them, as they are.

    Args:
        frame_rate: of clips, frames a second.
    """

    def evaluator(predict: Predict, batches: Callable[[], Iterable[Batch]]) -> Figures:
        prompts: list[str] = []
        shown: dict[str, list[np.ndarray]] = {}
        if count:
            for batch, outputs in predicted(predict, batches):
                prompts += [captions[0] if captions else "" for captions in batch["captions"]]
                shown.setdefault("drawn", []).append(to_uint8(outputs["image"]))
                if "image" in batch:  # a batch may hold codes alone
                    shown.setdefault("original", []).append(to_uint8(batch["image"]))
                if len(prompts) >= count:
                    break
        if prompts:
            rows = {name: np.concatenate(pictures)[:count] for name, pictures in shown.items()}
            yield "samples", Samples(prompts[:count], rows, frame_rate)

    return evaluator
