"""Whether images, clips and captions of drawn scenes match, by the checker of mmjax.scenes."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mmjax.config import Config
from mmjax.evaluate.rows import averaged
from mmjax.evaluate.spec import EvaluatorSpec
from mmjax.sample.postprocess import to_uint8
from mmjax.scenes.check import judge
from mmjax.scenes.check_motion import judge_clip
from mmjax.scenes.grammar import parse
from mmjax.types import Batch, Evaluator, UserError

SCENE_METRICS = tuple(f"scenes/{aspect}" for aspect in ("shape", "color", "size", "relation", "all"))
MOTION_METRICS = tuple(f"scenes/{aspect}" for aspect in ("motion", "color", "shape", "consistency", "all"))


def _matching(judge: Callable[[np.ndarray, str], Any], names: tuple[str, ...]) -> Evaluator:
    """Yields the fraction of generated images or clips that match their first caption in each respect, 0 to 1.

    Examples without captions are ignored.
    """

    def score(batch: Batch, outputs: Mapping[str, Any]) -> dict[str, Any]:
        rows = zip(to_uint8(outputs["image"]), batch["captions"], strict=True)
        verdicts = [judge(image, captions[0]) for image, captions in rows if captions]
        return {name: [getattr(verdict, name.removeprefix("scenes/")) for verdict in verdicts] for name in names}

    return averaged(score, *names)


scenes = _matching(judge, SCENE_METRICS)
motion = _matching(judge_clip, MOTION_METRICS)


def _true(batch: Batch, outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the model's caption of each image is true in all respects: shapes, colors, sizes and relation.

    A text that is not in the grammar is false, as is one without sizes if the scene's own caption names them. Examples
    without captions are ignored.
    """
    rows = zip(to_uint8(batch["image"]), outputs["caption"], batch["captions"], strict=True)
    return {"captions/true": [_is_true(image, caption, own[0]) for image, caption, own in rows if own]}


def _is_true(image: UInt8[np.ndarray, "y x 3"], caption: str, own: str) -> bool:
    try:
        said = parse(caption)
    except ValueError:
        return False
    return (said.fully_specified or not parse(own).fully_specified) and judge(image, caption).all


caption_faithfulness = averaged(_true, "captions/true")


def check_images(name: str, config: Config) -> None:
    """Raises UserError for clips."""
    if config.data.frames > 1:
        raise UserError(
            f"evaluate.evaluators: {name} is for images, and data.frames is {config.data.frames}; motion is for clips"
        )


def _check_clips(config: Config) -> None:
    if config.data.frames == 1:
        raise UserError("evaluate.evaluators: motion is for clips, and data.frames is 1; scenes is for images")


CAPTION_FAITHFULNESS = EvaluatorSpec(
    build=lambda config: caption_faithfulness,
    metrics=lambda config: ("captions/true",),
    predictions=("caption",),
    fields=("image", "scene"),
    check=lambda config: check_images("caption_faithfulness", config),
)
MOTION = EvaluatorSpec(
    build=lambda config: motion,
    metrics=lambda config: MOTION_METRICS,
    predictions=("image",),
    fields=("scene",),
    check=_check_clips,
)
SCENES = EvaluatorSpec(
    build=lambda config: scenes,
    metrics=lambda config: SCENE_METRICS,
    predictions=("image",),
    fields=("scene",),
    check=lambda config: check_images("scenes", config),
)
