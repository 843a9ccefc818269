"""Diversity of the images generated for a caption, relative to real scenes of that caption."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from jaxtyping import UInt8

from mmjax.config import Config
from mmjax.evaluate.rows import Mean
from mmjax.evaluate.spec import EvaluatorSpec, check_images
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
    mean = Mean()
    mean.add("scenes/diversity", [])
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
    examples, size = _first_examples(batches)
    asked = [row | {"seed": np.array([seed], np.int32)} for row in examples.values() for seed in range(SEEDS)]
    images = []
    # In batches of the evaluation's size, to avoid recompilation; the last is padded.
    for start in range(0, len(asked), max(size, 1)):
        rows = asked[start : start + size]
        images.append(to_uint8(predict(_joined(rows + rows[-1:] * (size - len(rows))))["image"]))
    if images:
        each = np.concatenate(images)[: len(asked)].reshape(-1, SEEDS, *images[0].shape[1:])
        yield from zip(examples, each, strict=True)


def _first_examples(batches: Callable[[], Iterable[Batch]]) -> tuple[dict[str, Batch], int]:
    """The first valid examples by caption, as batches of one row; and the batch size."""
    examples: dict[str, Batch] = {}
    size = 0
    for batch in batches():
        size = len(batch["mask"])
        for i in np.flatnonzero(batch["mask"]).tolist():
            if len(examples) < CAPTIONS and batch["captions"][i]:
                row = {name: value[i : i + 1] for name, value in batch.items()}
                examples.setdefault(batch["captions"][i][0], row)
        if len(examples) == CAPTIONS:
            break
    return examples, size


def _joined(rows: Sequence[Batch]) -> Batch:
    return {
        name: [one for row in rows for one in row[name]]
        if isinstance(value, list)
        else np.concatenate([row[name] for row in rows])
        for name, value in rows[0].items()
    }


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
