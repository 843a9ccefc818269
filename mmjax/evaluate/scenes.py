"""Whether images, clips and captions of drawn scenes match, by the checker of mmjax.scenes; how diverse images are."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from mmjax.config import Config
from mmjax.evaluate.rows import Mean, averaged
from mmjax.evaluate.spec import EvaluatorSpec
from mmjax.sample.postprocess import to_uint8
from mmjax.scenes.check import judge
from mmjax.scenes.draw import draw
from mmjax.scenes.grammar import parse
from mmjax.scenes.motion import judge_clip
from mmjax.types import Batch, Evaluator, Predict, Results, UserError

SCENE_METRICS = tuple(f"scenes/{aspect}" for aspect in ("shape", "color", "size", "relation", "all"))
MOTION_METRICS = tuple(f"scenes/{aspect}" for aspect in ("motion", "color", "shape", "consistency", "all"))
CAPTIONS, SEEDS = 8, 16  # of diversity


def _matching(judge: Callable[[np.ndarray, str], Any], names: tuple[str, ...]) -> Evaluator:
    """Yields the fraction of generated images or clips that match their first caption in each respect, 0 to 1.

    Examples without captions are ignored.
    """

    def score(batch: Batch, outputs: Mapping[str, Any]) -> dict[str, Any]:
        rows = zip(to_uint8(outputs["image"]), batch["captions"], strict=True)
        verdicts = [judge(image, captions[0]) for image, captions in rows if captions]
        return {name: [getattr(verdict, name.removeprefix("scenes/")) for verdict in verdicts] for name in names}

    return averaged(score)


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


caption_faithfulness = averaged(_true)


def diversity(predict: Predict, batches: Callable[[], Iterable[Batch]]) -> Results:
    """Yields "scenes/diversity": 1 if generated images vary like real ones, 0 if all are the same.

    For each of the first 8 different captions of the evaluation set: the mean distance between two of 16 images
    generated with seeds 0 to 15 (`seed` of the batch, int32 [b]), divided by that between two of 16 real scenes of the
    caption; then the mean over captions. The captions must not determine the image.
    """
    mean = Mean()
    for number, (caption, generated) in enumerate(_generated(predict, batches)):
        scene = parse(caption)
        real = [draw(scene, generated.shape[1], np.random.default_rng((number, seed))) for seed in range(SEEDS)]
        mean.add("scenes/diversity", [distance(generated) / distance(np.stack(real))])
    yield from mean.metrics()


def distance(images: UInt8[np.ndarray, "n y x 3"]) -> float:
    """The mean over all pairs of images of the RMS difference of their values, from 0 to 1."""
    from scipy.spatial.distance import pdist  # slow to import, and needed by few commands

    values = images.reshape(len(images), -1) / 255
    return float(pdist(values).mean() / np.sqrt(values.shape[1]))


def _generated(
    predict: Predict, batches: Callable[[], Iterable[Batch]]
) -> Iterator[tuple[str, UInt8[np.ndarray, "n y x 3"]]]:
    """Yields each caption with its images of all seeds."""
    examples: dict[str, Batch] = {}  # the first valid ones by caption, each a dict of single values
    size = 1
    for batch in batches():
        size = len(batch["mask"])
        for i in np.flatnonzero(batch["mask"]).tolist():
            if len(examples) < CAPTIONS and batch["captions"][i]:
                examples.setdefault(batch["captions"][i][0], {name: value[i] for name, value in batch.items()})
        if len(examples) == CAPTIONS:
            break
    asked = [example | {"seed": np.int32(seed)} for example in examples.values() for seed in range(SEEDS)]
    images: list[np.ndarray] = []
    # In batches of the evaluation's size, to avoid recompilation; the last is padded.
    for start in range(0, len(asked), size):
        rows = asked[start : start + size]
        images.extend(to_uint8(predict(_batch(rows + rows[-1:] * (size - len(rows))))["image"]))
    for number, caption in enumerate(examples):
        yield caption, np.stack(images[number * SEEDS : (number + 1) * SEEDS])


def _batch(examples: Sequence[Batch]) -> Batch:
    columns = {name: [example[name] for example in examples] for name in examples[0]}
    # Host fields are lists of texts, or of lists of texts.
    return {name: x if isinstance(x[0], (str, list)) else np.stack(x) for name, x in columns.items()}


def _check_images(name: str, config: Config) -> None:
    """Raises UserError for clips."""
    if config.data.frames > 1:
        raise UserError(
            f"evaluate.evaluators: {name} is for images, and data.frames is {config.data.frames}; motion is for clips"
        )


def _check_clips(config: Config) -> None:
    if config.data.frames == 1:
        raise UserError("evaluate.evaluators: motion is for clips, and data.frames is 1; scenes is for images")


def _check_open(config: Config) -> None:
    _check_images("diversity", config)
    if config.data.scenes.fully_specified:
        raise UserError(
            "evaluate.evaluators: diversity is for captions that leave the image open; set data.scenes.fully_specified "
            "to false, or leave diversity out"
        )


CAPTION_FAITHFULNESS = EvaluatorSpec(
    build=lambda config: caption_faithfulness,
    metrics=lambda config: ("captions/true",),
    predictions=("caption",),
    fields=("image", "scene"),
    check=lambda config: _check_images("caption_faithfulness", config),
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
    check=lambda config: _check_images("scenes", config),
)
DIVERSITY = EvaluatorSpec(
    build=lambda config: diversity,
    metrics=lambda config: ("scenes/diversity",),
    predictions=("image",),
    fields=("scene",),
    check=_check_open,
)
