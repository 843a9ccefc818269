"""Whether generated images of scenes match their captions, by the checker of mmjax.scenes."""

import functools
from collections.abc import Callable, Iterable

from mmjax.evaluate.rows import Mean, predicted
from mmjax.evaluate.spec import EvaluatorSpec, check_images
from mmjax.sample.postprocess import to_uint8
from mmjax.scenes.check import judge
from mmjax.types import Batch, Predict, Results

ASPECTS = ("shape", "color", "size", "relation", "all")


def scenes(predict: Predict, batches: Callable[[], Iterable[Batch]]) -> Results:
    """Yields "scenes/shape", "scenes/color", "scenes/size", "scenes/relation" and "scenes/all", 0 to 1.

    Each is the fraction of images that match their first caption in that respect. Examples without captions are
    ignored.
    """
    mean = Mean()
    for aspect in ASPECTS:
        mean.add(f"scenes/{aspect}", [])
    for batch, outputs in predicted(predict, batches):
        rows = zip(to_uint8(outputs["image"]), batch["captions"], strict=True)
        verdicts = [judge(image, captions[0]) for image, captions in rows if captions]
        for aspect in ASPECTS:
            mean.add(f"scenes/{aspect}", [getattr(verdict, aspect) for verdict in verdicts])
    yield from mean.metrics()


EVALUATOR = EvaluatorSpec(
    build=lambda config: scenes,
    metrics=lambda config: tuple(f"scenes/{name}" for name in ASPECTS),
    predictions=("image",),
    fields=("scene",),
    check=functools.partial(check_images, "scenes"),
)
