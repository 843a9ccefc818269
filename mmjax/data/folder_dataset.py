"""Folders of clips, sounds or images: ROOT/SPLIT/ holds them and captions.jsonl, with lines such as:

{"clip": "name.mp4", "captions": ["a dog runs over a meadow", "a dog on grass"]}
"""

import contextlib
import functools
import importlib.util
import itertools
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from jaxtyping import Float32

from mmjax.data.random_access import ordered
from mmjax.data.source import Examples, Features, ReadSpec, Source, digest_of
from mmjax.files import check_regular
from mmjax.types import UserError

CAPTIONS = "captions.jsonl"
MAX_LINE = 1 << 20  # characters of a line of it
WORKERS = max(2, min(16, os.cpu_count() or 2))  # concurrent reads
THREADS = "mmjax-listed"  # prefix of their names

logger = logging.getLogger(__name__)

# (path, read spec, epoch, key) -> an example; called from several threads. Raises Unusable to mask it out.
Load = Callable[[Path, ReadSpec, int, int], Float32[np.ndarray, "..."]]


class Unusable(UserError):
    """An unusable clip or sound; the message continues after its name, as in "is silent"."""


def require_package(path: Path, module: str, name: str, extra: str) -> None:
    """Raises UserError if a package that reads a file is not installed."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise UserError(f"{path}: {name} is needed to read it, and not installed; run pip install '.[{extra}]'")


@dataclass(frozen=True)
class FolderKind:
    """Kind of a folder's examples.

    Attributes:
        name: of an example, and the field of captions.jsonl.
        line: example line for messages.
        check: raises UserError if a file cannot be read for lack of a package.
    """

    name: str
    line: str
    check: Callable[[Path], None]

    @property
    def with_article(self) -> str:
        """Its name in messages: "a clip", "an image"."""
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"


def open_folder(source: str, folder: Path, kind: FolderKind, features: Features, load: Load) -> Source:
    """Opens a folder as a source, in the order of captions.jsonl.

    Args:
        source: data.source of the config.
        features: of its examples, with the result of `load` as `image`.

    Raises:
        UserError: where a file is missing or a line is invalid, or of kind.check.
    """
    captions = read_captions(folder, kind)
    names = list(captions)
    check_present(folder, names, kind)

    def all_captions() -> Iterator[str]:
        return itertools.chain.from_iterable(captions.values())

    def read(spec: ReadSpec) -> Iterator[Examples]:
        def loaded(epoch: int, key: int) -> tuple[Float32[np.ndarray, "..."], str]:
            try:
                return load(folder / names[key], spec, epoch, key), ""
            except Unusable as error:
                return np.zeros(features["image"].shape, np.float32), f"{kind.name} {names[key]} {error}"

        ahead, batches = itertools.tee(ordered(spec, len(names)))
        calls = (
            functools.partial(loaded, epoch, key)
            for epochs, keys in ahead
            for epoch, key in zip(epochs.tolist(), keys, strict=True)
        )
        with contextlib.closing(in_parallel(calls)) as results:
            for epochs, keys in batches:
                images, problems = zip(*itertools.islice(results, len(keys)), strict=True)
                yield {
                    "image": np.stack(images),
                    "mask": np.array([not problem for problem in problems]),
                    "key": np.array(keys, np.int64),
                    "epoch": epochs,
                    "id": [names[key] for key in keys],
                    "captions": [captions[names[key]] for key in keys],
                    "problem": list(problems),
                }

    return Source(source, len(names), features, all_captions, read, digest=digest_of(list(captions.items())))


def in_parallel(calls: Iterator[Callable[[], Any]], threads: int = WORKERS) -> Generator[Any, None, None]:
    """Yields the results of calls in order; threads run some ahead and end with the iterator."""
    pool = ThreadPoolExecutor(threads, THREADS)
    waiting: deque[Future[Any]] = deque()
    try:
        for call in calls:
            waiting.append(pool.submit(call))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # in a thread of its own where the garbage collector happens to close it there: it cannot wait for itself
        pool.shutdown(wait=not threading.current_thread().name.startswith(THREADS), cancel_futures=True)


def _lines(folder: Path, kind: FolderKind) -> Iterator[str]:
    """The lines of captions.jsonl; raises UserError where it is missing or no text."""
    path = folder / CAPTIONS
    try:
        check_regular(path)
        with path.open(encoding="utf-8-sig") as file:
            while line := file.readline(MAX_LINE):
                if len(line) == MAX_LINE:
                    raise UserError(f"{path}: has a line of more than {MAX_LINE:,} characters; it is like {kind.line}")
                yield line
    except FileNotFoundError as error:
        missing = f"{path}: no such file" if folder.is_dir() else f"{folder}: no such folder"
        raise UserError(
            f"{missing}; data.root must hold a folder for each split (data.train_split, data.evaluation_split) with "
            f"{kind.name}s and {CAPTIONS}"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from error


def read_captions(folder: Path, kind: FolderKind) -> dict[str, list[str]]:
    """Captions by name of the example, in the order of their first lines; raises UserError for an invalid line."""
    path = folder / CAPTIONS
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(_lines(folder, kind), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not JSON ({error}); a line is like {kind.line}") from error
        name, texts = (row.get(kind.name), row.get("captions")) if isinstance(row, dict) else (None, None)
        if not (isinstance(name, str) and name and isinstance(texts, list) and texts):
            raise UserError(f"{path}, line {number}: needs {kind.with_article} and its captions, like {kind.line}")
        if not is_inside(name):
            raise UserError(f"{path}, line {number}: {name!r} is outside of {folder}; name {kind.with_article} in it")
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f"{path}, line {number}: the captions of {name} must be texts, like {kind.line}")
        captions.setdefault(name, []).extend(texts)
    if not captions:
        raise UserError(f"{path}: names no {kind.name}; a line is like {kind.line}")
    return captions


def is_inside(name: str) -> bool:
    """Whether a name from a file is one of its folder, and not one above or elsewhere."""
    path = PurePath(name)
    return not path.is_absolute() and ".." not in path.parts


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links, told as it is read
        return False


def check_present(folder: Path, names: list[str], kind: FolderKind) -> None:
    """Raises UserError for the first missing or unreadable example, and warns of those without a caption."""
    with os.scandir(folder) as entries:  # once: a stat per example would take minutes on a network disk
        is_folder = {entry.name: _is_folder(entry) for entry in entries if not entry.name.startswith(".")}
    for name in names:
        inner = len(Path(name).parts) > 1
        if not ((folder / name).exists() if inner else name in is_folder):
            raise UserError(f"{folder / CAPTIONS}: names {name}, which is not in {folder}; add it or take out its line")
        if not ((folder / name).is_dir() if inner else is_folder[name]):
            kind.check(folder / name)
    left = sorted(is_folder.keys() - {Path(name).parts[0] for name in names} - {CAPTIONS})
    if left:
        logger.warning(
            "%s: %d %ss have no caption and are left out, the first is %s", folder, len(left), kind.name, left[0]
        )
