"""Runs evaluators over an evaluation set, and writes their results."""

import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.files import write_file
from mmjax.sample.postprocess import grid as grid  # commands/train.py takes it from here
from mmjax.sample.video import to_gif, to_png
from mmjax.types import Batch, Evaluator, Predict, Samples

KEPT_BYTES = 1 << 29


def run(
    evaluators: Mapping[str, Evaluator], predict: Predict, batches: Callable[[], Iterable[Batch]]
) -> tuple[dict[str, float], dict[str, Samples]]:
    """Runs evaluators one after another, and returns their metrics and samples by name.

    The first 512 MiB of batches and outputs are cached, so that a small evaluation set is read and predicted only once.

    Raises:
        ValueError: if two evaluators yield the same name.
    """
    predict, batches = _cached(predict, batches, KEPT_BYTES)
    metrics: dict[str, float] = {}
    samples: dict[str, Samples] = {}
    for evaluator_name, evaluator in evaluators.items():
        for name, value in evaluator(predict, batches):
            if name in metrics or name in samples:
                raise ValueError(f"evaluator {evaluator_name}: {name} was yielded before")
            if isinstance(value, Samples):
                samples[name] = value
            else:
                metrics[name] = float(value)
    return metrics, samples


def write(workdir: Path, step: int, metrics: Mapping[str, float], samples: Mapping[str, Samples]) -> None:
    """Writes WORKDIR/evaluation/STEP.json, and STEP.NAME.png and STEP.NAME.json for samples, each atomically.

    STEP.json holds the metrics, null where not finite. The image has the rows of samples without gaps; its JSON has the
    prompts, the names of the rows and the cell size [y, x] in pixels. Clips are an animated STEP.NAME.gif, and their
    JSON has the number of "frames" too.

    Raises:
        UserError: if a file cannot be written, such as on a full disk.
    """
    folder = workdir / "evaluation"
    for name, value in samples.items():
        stem = f"{step}.{re.sub(r'[^A-Za-z0-9_-]', '-', name)}"
        whole = grid(list(value.rows.values()))
        *frames, height, width, _ = next(iter(value.rows.values())).shape[1:]
        about: dict[str, Any] = {"prompts": value.prompts, "rows": list(value.rows), "cell": [height, width]}
        if frames:
            about["frames"] = frames[0]
            write_file(folder / f"{stem}.gif", to_gif(whole, value.frame_rate))
        else:
            write_file(folder / f"{stem}.png", to_png(whole))
        write_file(folder / f"{stem}.json", json.dumps(about, ensure_ascii=False).encode())
    finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    write_file(folder / f"{step}.json", (json.dumps(finite, indent=1) + "\n").encode())


def is_written(workdir: Path, step: int) -> bool:
    """Whether the evaluation of a step is complete."""
    return (workdir / "evaluation" / f"{step}.json").exists()


def _cached(
    predict: Predict, batches: Callable[[], Iterable[Batch]], limit: int
) -> tuple[Predict, Callable[[], Iterator[Batch]]]:
    """`predict` and `batches` with a cache of up to `limit` bytes, from the start of the evaluation set on."""
    kept: list[Batch] = []
    outputs: dict[int, dict[str, Any]] = {}  # by id: a kept batch lives as long as this does
    size, complete = 0, False

    def cached_predict(batch: Batch) -> dict[str, Any]:
        nonlocal size
        if id(batch) in outputs:
            return outputs[id(batch)]
        output = predict(batch)
        if kept and batch is kept[-1]:
            outputs[id(batch)] = output
            size += _bytes(output)
        return output

    def replayed() -> Iterator[Batch]:
        nonlocal size, complete
        seen = 0
        while seen < len(kept):
            yield kept[seen]
            seen += 1
        if complete:
            return
        for batch in itertools.islice(batches(), seen, None):
            if seen == len(kept) and size + _bytes(batch) <= limit:
                kept.append(batch)
                size += _bytes(batch)
            seen += 1
            yield batch
        complete = seen == len(kept)

    return cached_predict, replayed


def _bytes(fields: Mapping[str, object]) -> int:
    return sum(value.nbytes for value in fields.values() if isinstance(value, np.ndarray))
