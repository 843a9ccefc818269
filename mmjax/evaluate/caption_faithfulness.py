"""Whether the model's captions of scenes are true of the image, by the checker of mmjax.scenes."""

import functools
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import UInt8

from mmjax.evaluate.rows import Mean, predicted
from mmjax.evaluate.spec import EvaluatorSpec, check_images
from mmjax.sample.postprocess import to_uint8
from mmjax.scenes.check import judge
from mmjax.scenes.grammar import parse
from mmjax.types import Batch, Predict, Results


def caption_faithfulness(predict: Predict, batches: Callable[[], Iterable[Batch]]) -> Results:
    """Yields "captions/true": the fraction of images whose generated caption is true in all respects, 0 to 1.

    These are shapes, colors, sizes and relation. A text that is not in the grammar is false, as is one without sizes if
    the scene's own caption names them. Examples without captions are ignored.
    """
    mean = Mean()
    mean.add("captions/true", [])
    for batch, outputs in predicted(predict, batches):
        rows = zip(to_uint8(batch["image"]), outputs["caption"], batch["captions"], strict=True)
        mean.add("captions/true", [_is_true(image, caption, own[0]) for image, caption, own in rows if own])
    yield from mean.metrics()


def _is_true(image: UInt8[np.ndarray, "y x 3"], caption: str, own: str) -> bool:
    try:
        said = parse(caption)
    except ValueError:
        return False
    return (said.fully_specified or not parse(own).fully_specified) and judge(image, caption).all


EVALUATOR = EvaluatorSpec(
    build=lambda config: caption_faithfulness,
    metrics=lambda config: ("captions/true",),
    predictions=("caption",),
    fields=("image", "scene"),
    check=functools.partial(check_images, "caption_faithfulness"),
)
