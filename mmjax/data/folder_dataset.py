"""Folders of clips or sounds: ROOT/SPLIT/ holds them and captions.jsonl, with lines such as:

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from mmjax.data.random_access import ordered
from mmjax.data.source import Examples, Features, ReadSpec, Source
from mmjax.types import UserError

CAPTIONS = "captions.jsonl"
WORKERS = max(2, min(16, os.cpu_count() or 2))  # concurrent reads

logger = logging.getLogger(__name__)

# (path, read spec, epoch, key) -> an example; called from several threads.
Load = Callable[[Path, ReadSpec, int, int], Float32[np.ndarray, "..."]]


@dataclass(frozen=True)
class FolderKind:
    """Kind of a folder's examples: its name, and an example file and caption for messages."""

    name: str
    example: str
    caption: str

    @property
    def line(self) -> str:
        return f'{{"{self.name}": "{self.example}", "captions": ["{self.caption}"]}}'


def open_folder(
    name: str,
    folder: Path,
    kind: FolderKind,
    features: Features,
    load: Load,
    unreadable: type[UserError],
    check: Callable[[Path, bool], None],
) -> Source:
    """Opens a folder as a source, in the order of captions.jsonl.

    Args:
        name: data.source of the config.
        features: of its examples, with the result of `load` as `image`.
        load: reads an example.
        unreadable: error of `load` for an unusable example, which is masked out.
        check: (path, is a folder) raises UserError if it cannot be read.

    Raises:
        UserError: where a file is missing, a line is invalid, or `check` fails.
    """
    captions = read_captions(folder, kind)
    names = list(captions)
    check_present(folder, names, kind, check)

    def all_captions() -> Iterator[str]:
        return itertools.chain.from_iterable(captions.values())

    def read(spec: ReadSpec) -> Iterator[Examples]:
        def loaded(epoch: int, key: int) -> Any:
            try:
                return epoch, key, load(folder / names[key], spec, epoch, key)
            except unreadable as error:
                return epoch, key, error

        def calls() -> Iterator[Callable[[], Any]]:
            for epochs, keys in ordered(spec, len(names)):
                yield from (functools.partial(loaded, *which) for which in zip(epochs.tolist(), keys, strict=True))

        with contextlib.closing(in_parallel(calls())) as loaded_examples:
            for positions in spec.positions():
                batch = list(itertools.islice(loaded_examples, len(positions)))
                yield _examples(batch, names, captions, kind, features["image"].shape)

    return Source(name, len(names), features, all_captions, read)


def _examples(
    loaded: list[tuple[int, int, Any]],
    names: list[str],
    captions: dict[str, list[str]],
    kind: FolderKind,
    shape: tuple[int, ...],
) -> Examples:
    epochs, keys, examples = zip(*loaded, strict=True)
    image = np.zeros((len(loaded), *shape), np.float32)
    problems = [""] * len(loaded)
    for i, example in enumerate(examples):
        if isinstance(example, UserError):
            problems[i] = f"{kind.name} {names[keys[i]]} {example}"
        else:
            image[i] = example
    return {
        "image": image,
        "mask": np.array([not problem for problem in problems]),
        "key": np.array(keys, np.int64),
        "epoch": np.array(epochs, np.int64),
        "id": [names[key] for key in keys],
        "captions": [captions[names[key]] for key in keys],
        "problem": problems,
    }


def in_parallel(calls: Iterator[Callable[[], Any]], threads: int = WORKERS) -> Generator[Any, None, None]:
    """Yields the results of calls in order; threads run some ahead and end with the iterator."""
    pool = ThreadPoolExecutor(threads, "mmjax-listed")
    waiting: deque[Future[Any]] = deque()
    try:
        for call in calls:
            waiting.append(pool.submit(call))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def read_captions(folder: Path, kind: FolderKind) -> dict[str, list[str]]:
    """Reads captions by name of the example, in the order of their first lines.

    Raises:
        UserError: where a file is missing or a line is invalid.
    """
    path = folder / CAPTIONS
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as error:
        what = path if folder.is_dir() else folder
        raise UserError(
            f"{what}: no such {'file' if folder.is_dir() else 'folder'}; data.root must hold a folder for each split "
            f"(data.train_split, data.evaluation_split) with {kind.name}s and {CAPTIONS}"
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
            raise UserError(f"{path}, line {number}: not JSON ({reason}); a line is like {kind.line}") from error
        name, texts = (row.get(kind.name), row.get("captions")) if isinstance(row, dict) else (None, None)
        if not (isinstance(name, str) and name and isinstance(texts, list) and texts):
            raise UserError(f"{path}, line {number}: needs a {kind.name} and its captions, like {kind.line}")
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f"{path}, line {number}: the captions of {name} must be texts, like {kind.line}")
        captions.setdefault(name, []).extend(texts)
    if not captions:
        raise UserError(f"{path}: names no {kind.name}; a line is like {kind.line}")
    return captions


def check_present(folder: Path, names: list[str], kind: FolderKind, check: Callable[[Path, bool], None]) -> None:
    """Checks that every example exists, and warns of those without a caption.

    Args:
        check: (path, is a folder) raises UserError if it cannot be read.

    Raises:
        UserError: for the first missing or unreadable example.
    """
    with os.scandir(folder) as entries:  # once: a stat per example would take minutes on a network disk
        is_folder = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
    for name in names:
        inner = len(Path(name).parts) > 1
        if not ((folder / name).exists() if inner else name in is_folder):
            raise UserError(f"{folder / CAPTIONS}: names {name}, which is not in {folder}; add it or take out its line")
        check(folder / name, (folder / name).is_dir() if inner else is_folder[name])
    mentioned = {Path(name).parts[0] for name in names}
    left = sorted(name for name in is_folder if name not in mentioned and name != CAPTIONS)
    if left:
        logger.warning(
            "%s: %d %ss have no caption and are left out, the first is %s", folder, len(left), kind.name, left[0]
        )
