"""Whether captions that the model wrote of scenes are true of the picture, by the checker of mmjax.scenes."""

from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import UInt8

from mmjax.evaluate.rows import Mean, predicted
from mmjax.sample.postprocess import to_uint8
from mmjax.scenes.check import judge
from mmjax.scenes.grammar import parse
from mmjax.types import Batch, Figures, Predict


def captions_true(predict: Predict, batches: Callable[[], Iterable[Batch]]) -> Figures:
    """Yields "captions/true": the share of pictures of which the model's caption is true in shapes, colors, sizes and
    relation, 0 to 1.

    A text that is not of the grammar is not true, nor is one that leaves sizes open where the scene's own caption
    names them. Examples without captions do not count.
    """
    mean = Mean()
    mean.add("captions/true", [])
    for batch, outputs in predicted(predict, batches):
        rows = zip(to_uint8(batch["image"]), outputs["caption"], batch["captions"], strict=True)
        mean.add("captions/true", [_is_true(picture, caption, own[0]) for picture, caption, own in rows if own])
    yield from mean.figures()


def _is_true(picture: UInt8[np.ndarray, "y x 3"], caption: str, own: str) -> bool:
    try:
        said = parse(caption)
    except ValueError:
        return False
    return (said.determined or not parse(own).determined) and judge(picture, caption).all
