"""Pictures to look at beside the originals."""

from collections.abc import Callable, Iterable

import numpy as np

from mmjax.evaluate.rows import predicted
from mmjax.sample.postprocess import to_uint8
from mmjax.types import Batch, Evaluator, Figures, Predict, Samples


def samples(count: int) -> Evaluator:
    """An evaluator that yields "samples": the first `count` examples, drawn by the model and as they are."""

    def evaluator(predict: Predict, batches: Callable[[], Iterable[Batch]]) -> Figures:
        prompts: list[str] = []
        drawn, original = [], []
        if count:
            for batch, outputs in predicted(predict, batches):
                prompts += [captions[0] if captions else "" for captions in batch["captions"]]
                drawn.append(to_uint8(outputs["image"]))
                original.append(to_uint8(batch["image"]))
                if len(prompts) >= count:
                    break
        if prompts:
            rows = {"drawn": np.concatenate(drawn)[:count], "original": np.concatenate(original)[:count]}
            yield "samples", Samples(prompts[:count], rows)

    return evaluator
