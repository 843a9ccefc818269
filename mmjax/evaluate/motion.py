"""Whether generated clips of moving scenes match their captions, by the checker of mmjax.scenes."""

from collections.abc import Callable, Iterable

from mmjax.config import Config
from mmjax.evaluate.rows import Mean, predicted
from mmjax.evaluate.spec import EvaluatorSpec
from mmjax.sample.postprocess import to_uint8
from mmjax.scenes.motion import judge_clip
from mmjax.types import Batch, Predict, Results, UserError

ASPECTS = ("motion", "color", "shape", "consistency", "all")


def motion(predict: Predict, batches: Callable[[], Iterable[Batch]]) -> Results:
    """Yields "scenes/motion", "scenes/color", "scenes/shape", "scenes/consistency" and "scenes/all", 0 to 1.

    Each is the fraction of clips, "image" float32 [b, f, y, x, c], that match their first caption in that respect.
    """
    mean = Mean()
    for aspect in ASPECTS:
        mean.add(f"scenes/{aspect}", [])
    for batch, outputs in predicted(predict, batches):
        clips = to_uint8(outputs["image"])
        verdicts = [judge_clip(clip, captions[0]) for clip, captions in zip(clips, batch["captions"], strict=True)]
        for aspect in ASPECTS:
            mean.add(f"scenes/{aspect}", [getattr(verdict, aspect) for verdict in verdicts])
    yield from mean.metrics()


def _check(config: Config) -> None:
    if config.data.frames == 1:
        raise UserError("evaluate.evaluators: motion is for clips, and data.frames is 1; scenes is for images")


EVALUATOR = EvaluatorSpec(
    build=lambda config: motion,
    metrics=lambda config: tuple(f"scenes/{name}" for name in ASPECTS),
    predictions=("image",),
    fields=("scene",),
    check=_check,
)
