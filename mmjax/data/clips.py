"""A folder of clips with captions, without TensorFlow.

ROOT/SPLIT/ holds the clips, each a file (mp4 or whatever else PyAV reads, or an animated GIF) or a folder of numbered
frames (PNG, JPEG), and captions.jsonl with a line for each clip that is to be used:

    {"clip": "name.mp4", "captions": ["a dog runs over a meadow", "a dog on grass"]}
"""

import contextlib
import functools
import itertools
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mmjax.config import Data
from mmjax.data.clip import ANIMATIONS, ClipError, check_pyav, read_frames
from mmjax.data.picture import resized_crop
from mmjax.data.source import Reading, Rows, Source, epoch_order
from mmjax.types import UserError

PROVIDES = ("image", "text")
CAPTIONS = "captions.jsonl"
LINE = '{"clip": "name.mp4", "captions": ["what it shows"]}'
WORKERS = max(2, min(16, os.cpu_count() or 2))  # clips decoded at a time

logger = logging.getLogger(__name__)


def open_clips(config: Data, training: bool) -> Source:
    """Clips with their captions, in the order of captions.jsonl.

    "image" is [b, f, y, x, 3], or [b, y, x, 3] where data.frames is 1. Training draws the start of a clip, the place of
    the crop and the mirroring, the same for all of its frames; evaluation takes the middle of each.

    Raises:
        UserError: where something is missing, a line is not as it should be, or a clip needs PyAV and it is missing.
    """
    split = config.train_split if training else config.evaluation_split
    folder = Path(config.root) / split
    captions = _parse(folder)
    names = list(captions)
    _check_present(folder, names)

    def all_captions() -> Iterator[str]:
        return (caption for name in names for caption in captions[name])

    def clip(reading: Reading, epoch: int, key: int) -> UInt8[np.ndarray, "f y x 3"] | ClipError:
        start, down, across, mirror = 0.5, 0.5, 0.5, 1.0
        if reading.training:
            # The last number keeps these draws apart from that of the caption.
            start, down, across, mirror = np.random.default_rng((reading.seed, epoch, key, 1)).random(4)
        flip = reading.flip and mirror < 0.5

        def crop(image: Image.Image) -> UInt8[np.ndarray, "y x 3"]:
            picture = resized_crop(image, reading.resize, reading.size, (down, across))
            return picture[:, ::-1] if flip else picture

        try:
            return read_frames(folder / names[key], config.frames, config.frame_rate, reading.resize, start, crop)
        except ClipError as error:
            return error

    def read(reading: Reading) -> Iterator[Rows]:
        order = functools.lru_cache(maxsize=2)(functools.partial(epoch_order, reading, len(names)))
        side = reading.size
        shape = (side, side, 3) if config.frames == 1 else (config.frames, side, side, 3)

        def calls() -> Iterator[Callable[[], Any]]:
            for position in itertools.chain.from_iterable(map(np.ndarray.tolist, reading.positions())):
                epoch, place = divmod(position, len(names))
                key = int(order(epoch)[place])
                yield lambda epoch=epoch, key=key: (epoch, key, clip(reading, epoch, key))  # type: ignore[misc]

        with contextlib.closing(_in_parallel(calls())) as rows:
            for positions in reading.positions():
                yield _batch(list(itertools.islice(rows, len(positions))), names, captions, shape)

    return Source("clips_folder", len(names), PROVIDES, all_captions, read)


def _batch(
    rows: list[tuple[int, int, Any]], names: list[str], captions: dict[str, list[str]], shape: tuple[int, ...]
) -> Rows:
    epochs, keys, clips = zip(*rows, strict=True)
    image = np.zeros((len(rows), *shape), np.float32)
    problems = [""] * len(rows)
    for i, clip in enumerate(clips):
        if isinstance(clip, ClipError):
            problems[i] = f"clip {names[keys[i]]} {clip}"
        else:
            image[i] = clip.reshape(shape) / np.float32(127.5) - np.float32(1)
    return {
        "image": image,
        "mask": np.array([not problem for problem in problems]),
        "key": np.array(keys, np.int64),
        "epoch": np.array(epochs, np.int64),
        "id": [names[key] for key in keys],
        "captions": [captions[names[key]] for key in keys],
        "problem": problems,
    }


def _in_parallel(calls: Iterator[Callable[[], Any]]) -> Generator[Any, None, None]:
    """What the calls return, in their order; some are made ahead, in threads that end with the iterator."""
    pool = ThreadPoolExecutor(WORKERS, "mmjax-clips")
    waiting: deque[Future[Any]] = deque()
    try:
        for call in calls:
            waiting.append(pool.submit(call))
            if len(waiting) > 2 * WORKERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _parse(folder: Path) -> dict[str, list[str]]:
    """Captions by the name of the clip, in the order in which the clips are first named."""
    path = folder / CAPTIONS
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as error:
        what = path if folder.is_dir() else folder
        raise UserError(
            f"{what}: no such {'file' if folder.is_dir() else 'folder'}; data.root must hold a folder for each split "
            f"(data.train_split, data.evaluation_split) with clips and {CAPTIONS}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{path}, line {number}: not JSON ({reason}); a line is like {LINE}") from error
        name, texts = (row.get("clip"), row.get("captions")) if isinstance(row, dict) else (None, None)
        if not (isinstance(name, str) and name and isinstance(texts, list) and texts):
            raise UserError(f"{path}, line {number}: needs a clip and its captions, like {LINE}")
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f"{path}, line {number}: the captions of {name} must be texts, like {LINE}")
        captions.setdefault(name, []).extend(texts)
    if not captions:
        raise UserError(f"{path}: names no clip; a line is like {LINE}")
    return captions


def _check_present(folder: Path, names: list[str]) -> None:
    """Every clip is there, and can be read with what is installed; clips without a caption are counted in a warning."""
    with os.scandir(folder) as entries:  # once: a question per clip would take minutes on a network disk
        is_folder = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
    for name in names:
        inner = len(Path(name).parts) > 1
        if not ((folder / name).exists() if inner else name in is_folder):
            raise UserError(f"{folder / CAPTIONS}: names {name}, which is not in {folder}; add it or take out its line")
        if not ((folder / name).is_dir() if inner else is_folder[name]) and not name.lower().endswith(ANIMATIONS):
            check_pyav(folder / name)
    mentioned = {Path(name).parts[0] for name in names}
    left = sorted(name for name in is_folder if name not in mentioned and name != CAPTIONS)
    if left:
        logger.warning("%s: %d clips have no caption and are left out, the first is %s", folder, len(left), left[0])
