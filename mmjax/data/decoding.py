"""Decodes and transforms examples into batches on all cores.

All randomness is a function of (seed, epoch, key of the example), so that any step is reproducible.
"""

import collections
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from mmjax.data.image import decode, decode_mask, normalize
from mmjax.data.source import Examples, Features, ReadSpec, array_fields
from mmjax.data.transforms import Example, Key, Transform, crop_and_flip, pad_boxes
from mmjax.types import UserError

AHEAD = 2  # batches whose examples are prepared at a time
BUFFER = 1 << 22  # bytes per thread for a decoded image; allocating each would take a tenth of the time
READERS = 16  # threads that read; network disks have high latency

# (name of an example) -> its images and masks, encoded or uint8 arrays, boxes float [k, 4] of any k, and arrays. Masks
# and boxes may be None. Called from several threads; if it raises, the example is masked out.
Load = Callable[[Any], Example]

_buffers = threading.local()


def decode_examples(
    batches: Iterator[Examples], load: Load, spec: ReadSpec, features: Features, transforms: Sequence[Transform] = ()
) -> Iterator[Examples]:
    """Replaces `example`, the names of examples, by their features and `mask`; adds `read_seconds`.

    Several batches are prepared concurrently; OpenCV and libjpeg-turbo release the GIL.

    Args:
        batches: dicts with epoch int64 [b], key int64 [b] and example [b].
        transforms: applied after crop and flip.
    """
    readers, workers = ThreadPoolExecutor(READERS, "mmjax-read"), ThreadPoolExecutor(cores(), "mmjax-prepare")
    ahead: collections.deque[tuple[Examples, list[Future[float | None]]]] = collections.deque()
    fields, transforms = array_fields(features), (*crop_and_flip(spec, features), *transforms)

    def start() -> None:
        begin = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        batch["read_seconds"] = time.perf_counter() - begin
        contents = [readers.submit(load, name) for name in batch.pop("example")]
        arrays = {name: np.empty((len(contents), *shape), dtype) for name, (shape, dtype) in fields.items()}
        batch |= arrays
        ahead.append((batch, [
            workers.submit(_prepare, content, (spec.seed, epoch, key), {n: a[i : i + 1] for n, a in arrays.items()},
                           features, transforms, spec)
            for i, (content, epoch, key) in enumerate(
                zip(contents, batch["epoch"].tolist(), batch["key"].tolist(), strict=True))
        ]))  # fmt: skip

    try:
        for _ in range(AHEAD):
            start()
        while ahead:
            batch, futures = ahead.popleft()
            waited = [future.result() for future in futures]
            batch["mask"] = np.array([seconds is not None for seconds in waited], bool)
            for name in fields:
                batch[name][~batch["mask"]] = 0
            batch["read_seconds"] += sum(filter(None, waited)) / cores()
            start()
            yield batch
    finally:
        for pool in (readers, workers):
            pool.shutdown(cancel_futures=True)


def _prepare(
    content: Future[Example],
    key: Key,
    out: Mapping[str, np.ndarray],
    features: Features,
    transforms: Sequence[Transform],
    spec: ReadSpec,
) -> float | None:
    """Fills in `out`, arrays [1, ...]; returns the seconds waited for the content, None if it cannot be read."""
    begin = time.perf_counter()
    try:
        example = content.result()
    except Exception:  # readers may raise anything
        return None
    waited = time.perf_counter() - begin
    if missing := [name for name in features if name in out and name not in example]:
        raise UserError(f"data.source: gives an example without {', '.join(missing)}, which is a feature of it")
    try:
        decoded = _decode(example, features, spec)
    except UserError:
        return None
    for transform in transforms:
        decoded = transform(decoded, key)
    for name, feature in features.items():
        if feature.kind == "image":
            normalize(decoded[name], out[name][0])
        elif feature.kind == "boxes":
            out[name][0], out[f"{name}_valid"][0] = pad_boxes(decoded[name], feature.shape[0])
        elif feature.kind in ("mask", "array"):
            out[name][0] = 0 if decoded[name] is None else decoded[name]
    return waited


def _decode(example: Example, features: Features, spec: ReadSpec) -> Example:
    """Decodes the images and masks of an example; raises UserError for an unreadable one."""
    decoded = dict(example)
    if not hasattr(_buffers, "by_name"):
        _buffers.by_name = collections.defaultdict(lambda: np.empty(BUFFER, np.uint8))
    for name, feature in features.items():
        if feature.kind not in ("image", "mask") or isinstance(example[name], np.ndarray | None):
            continue
        if feature.kind == "image":
            short_side = -(-max(feature.shape[:2]) * spec.resize // spec.size)
            decoded[name] = decode(example[name], short_side, name, _buffers.by_name[name])
        else:
            decoded[name] = decode_mask(example[name], name)
    return decoded


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
