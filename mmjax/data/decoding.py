"""Encoded images to float32, one set of draws for training and one for evaluation, on all cores.

Everything random is a pure function of (seed, epoch, key of the example), so that any step can be made again.
"""

import collections
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from mmjax.data.image import decode, normalize
from mmjax.data.resize import opencv, resized_crop
from mmjax.data.source import Reading

AHEAD = 2  # batches whose images are prepared at a time
MEMORY = 1 << 22  # bytes of a thread for a decoded image; asking anew for each takes a tenth of the time
READERS = 16  # threads that read: a disk in a network answers late


_memory = threading.local()


def decoded(
    batches: Iterator[dict[str, Any]], image: Callable[[Any], bytes], reading: Reading
) -> Iterator[dict[str, Any]]:
    """Replaces `image`, a batch's names of images, by `image` and `mask`; adds `reading`, seconds waited for it.

    The images of some batches are read and prepared at a time; OpenCV and libjpeg-turbo let Python go on meanwhile.

    Args:
        batches: dicts with epoch int64 [b], key int64 [b] and image [b].
        image: gives an encoded image by its name, from any thread; whatever it raises, the image is masked out.
    """
    readers, workers = ThreadPoolExecutor(READERS, "mmjax-read"), ThreadPoolExecutor(cores(), "mmjax-prepare")
    ahead: collections.deque[tuple[dict[str, Any], list[Future[float | None]]]] = collections.deque()

    def start() -> None:
        begin = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        batch["reading"] = time.perf_counter() - begin
        contents = [readers.submit(image, name) for name in batch.pop("image")]
        batch["image"] = np.empty((len(contents), reading.size, reading.size, 3), np.float32)
        rows = zip(contents, batch["epoch"].tolist(), batch["key"].tolist(), batch["image"], strict=True)
        ahead.append((batch, [workers.submit(_prepare, *row, reading) for row in rows]))

    try:
        for _ in range(AHEAD):
            start()
        while ahead:
            batch, rows = ahead.popleft()
            waited = [row.result() for row in rows]
            batch["mask"] = np.array([seconds is not None for seconds in waited], bool)
            batch["reading"] += sum(filter(None, waited)) / cores()
            start()
            yield batch
    finally:
        for pool in (readers, workers):
            pool.shutdown(cancel_futures=True)


def _prepare(content: Future[bytes], epoch: int, key: int, image: np.ndarray, reading: Reading) -> float | None:
    """Fills the image; gives the seconds waited for the content, None where it cannot be read, of which all is 0."""
    begin = time.perf_counter()
    try:
        encoded = content.result()
        waited = time.perf_counter() - begin
        place, mirror = draw(epoch, key, reading)
        if not hasattr(_memory, "image"):
            _memory.image = np.empty(MEMORY, np.uint8)
        decoded = decode(encoded, reading.resize, "image", _memory.image)
        crop = resized_crop(decoded, reading.resize, reading.size, place)
    except Exception:  # UserError from the image; of reading, each way has errors of its own
        image.fill(0.0)
        return None
    normalize(opencv().flip(crop, 1) if mirror else crop, image)
    return waited


def draw(epoch: int, key: int, reading: Reading) -> tuple[tuple[float, float], bool]:
    """Where an image is cropped (as of resize.crop_window), and whether it is mirrored left to right."""
    if not reading.training:
        return (0.5, 0.5), False
    # The last number keeps these draws apart from that of the caption.
    down, across, mirror = np.random.default_rng((reading.seed, epoch, key % 2**63, 1)).random(3).tolist()
    return (down, across), reading.flip and mirror < 0.5


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
