"""Diversity of the images generated for a caption, relative to real scenes of that caption."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import UInt8

from mmjax.config import Config
from mmjax.evaluate.rows import Mean
from mmjax.evaluate.scenes import check_images
from mmjax.evaluate.spec import EvaluatorSpec
from mmjax.sample.postprocess import to_uint8
from mmjax.scenes.draw import draw
from mmjax.scenes.grammar import parse
from mmjax.types import Batch, Predict, Results, UserError

CAPTIONS = 8
SEEDS = 16


def diversity(predict: Predict, batches: Callable[[], Iterable[Batch]]) -> Results:
    """Yields "scenes/diversity": 1 if generated images vary like real ones, 0 if all are the same.

    For each of the first 8 different captions of the evaluation set: the mean distance between two of 16 images
    generated with seeds 0 to 15 (`seed` of the batch, int32 [b]), divided by that between two of 16 real scenes of the
    caption; then the mean over captions. The captions must not determine the image.
    """
    mean = Mean("scenes/diversity")
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


def _check(config: Config) -> None:
    check_images("diversity", config)
    if config.data.scenes.fully_specified:
        raise UserError(
            "evaluate.evaluators: diversity is for captions that leave the image open; set data.scenes.fully_specified "
            "to false, or leave diversity out"
        )


EVALUATOR = EvaluatorSpec(
    build=lambda config: diversity,
    metrics=lambda config: ("scenes/diversity",),
    predictions=("image",),
    fields=("scene",),
    check=_check,
)
