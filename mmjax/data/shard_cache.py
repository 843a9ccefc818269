"""Disk cache of shards with checksums and an index.

A cache is a folder of shards and an index.json, rewritten after each shard. Its key is a nested dict that determines
the content; opening it with another key raises an error that names the differences. A shard holds consecutive
positions: an interrupted or corrupt cache has gaps, and writing resumes by filling them. Shards are named arrays in
safetensors files, or other files, such as ArrayRecord.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int64, Shaped
from safetensors import numpy as safetensors
from safetensors import safe_open

from mmjax.config import differences
from mmjax.files import UNREADABLE, names_in, read_file, remove, write_json
from mmjax.lock import locked
from mmjax.progress import progress_bar
from mmjax.types import UserError

VERSION = 1
INDEX, LOCK, SUFFIX = "index.json", ".lock", ".safetensors"
ENDS = ".ends"  # of a ragged array
TEMPORARY = ".*.tmp"
LEFTOVERS = (f"*{SUFFIX}", "*.array_record-*", TEMPORARY)  # removed unless the index names them
HEAD, TAIL = 4096, 1 << 16  # bytes of a file that a quick check reads; ArrayRecord has its index at the end
MAX_SHOWN = 3  # differences in a message
MAX_INDEX = 1 << 30  # bytes
THREADS = 8  # shards checked at a time

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """A file of a cache, with the positions [start, start + size)."""

    file: str
    start: int
    size: int
    bytes: int
    sha256: str
    ends_sha256: str  # of the first and last bytes, for a quick check
    part: str = ""  # for caches with several sequences of positions, such as splits
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError for what no index that was written holds."""
        kinds = {each.name: each.type if isinstance(each.type, type) else dict for each in dataclasses.fields(self)}
        if any(type(getattr(self, name)) is not kind for name, kind in kinds.items()):
            raise ValueError("a field of a shard has another type")
        if Path(self.file).name != self.file or min(self.start, self.size, self.bytes) < 0:
            raise ValueError("no shard")


@dataclass(frozen=True)
class CacheKind:
    """Kind of a cache, for its index and messages."""

    name: str  # in the plural: "visual tokens"
    command: str  # that writes and repairs it
    option: str  # for another folder
    valid: Callable[[Shard], bool] = lambda shard: True  # whether the info of a shard is
    wait: float = 0.0  # seconds for another process that writes it


@dataclass
class Cache:
    """An open cache."""

    folder: Path
    kind: CacheKind
    key: dict[str, Any]  # determines the content
    info: dict[str, Any]  # other data for readers
    shards: list[Shard] = field(default_factory=list)  # of each part, ordered by position
    complete: bool = False

    def shards_of(self, part: str) -> list[Shard]:
        return [shard for shard in self.shards if shard.part == part]


def key_digest(key: Mapping[str, Any]) -> str:
    """SHA-256 of a key as canonical JSON."""
    return hashlib.sha256(json.dumps(key, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_cache(folder: Path, kind: CacheKind, key: Mapping[str, Any] | None = None) -> Cache | None:
    """Reads a cache, complete or not, without checking shards; None if there is none.

    Raises:
        UserError: where the index is invalid, or of another kind, version or key.
    """
    path = folder / INDEX
    try:
        tree = json.loads(read_file(path, MAX_INDEX))
        if (tree["kind"], tree["version"]) != (kind.name, VERSION):
            raise ValueError("of another kind or version")
        shards = [Shard(**row) for row in tree["shards"]]
        cache = Cache(folder, kind, tree["key"], tree["info"], shards, tree["complete"])
        groups = isinstance(cache.key, dict) and isinstance(cache.info, dict) and isinstance(cache.complete, bool)
        if not groups or tree["digest"] != key_digest(cache.key) or not all(map(kind.valid, shards)):
            raise ValueError("damaged")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (*UNREADABLE, UserError, TypeError, KeyError) as error:
        problem = f"not an index of {kind.name}, version {VERSION}"
        raise UserError(f"{path}: {problem}; remove {folder} and run {kind.command}") from error
    if key is not None:
        _check(cache, cache.key, key)
    return cache


def open_cache(folder: Path, kind: CacheKind, key: Mapping[str, Any] | None = None) -> Cache:
    """Opens a complete cache after a quick check of its shards; see find_corrupt_shards.

    Raises:
        UserError: as read_cache, or where it is missing, incomplete or corrupt.
    """
    cache = read_cache(folder, kind, key)
    if cache is None or not cache.complete:
        state, then = ("no", "makes them") if cache is None else ("not complete:", "resumes")
        raise UserError(f"{folder}: {state} {kind.name}; run {kind.command}, which {then}")
    for file, problem in find_corrupt_shards(cache, quick=True).items():
        raise UserError(f"{folder / file}: {problem}; run {kind.command} to repair it")
    return cache


def is_complete(folder: Path, kind: CacheKind, verify: bool = False) -> bool:
    """Whether a folder holds a complete cache of any key; `verify` also checks its shards."""
    cache = read_cache(folder, kind)
    return cache is not None and cache.complete and not (verify and find_corrupt_shards(cache))


def _check(cache: Cache, actual: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raises UserError if two keys differ."""

    def describe(value: Any) -> str:
        if value is None or isinstance(value, Mapping):
            return "not set" if value is None else "set"
        text = value if value and isinstance(value, str) else json.dumps(value)
        return text if len(text) < 64 else f"{text[:8]}..."  # a digest

    changed = list(differences(actual, _plain(expected)))
    shown = [f"{name} was {describe(old)} and now is {describe(new)}" for name, old, new in changed[:MAX_SHOWN]]
    shown += [f"{len(changed) - MAX_SHOWN} more differences"] if len(changed) > MAX_SHOWN else []
    if shown:
        problem = f"{cache.folder}: holds other {cache.kind.name}: {', '.join(shown)}"
        raise UserError(f"{problem}; remove the folder, or name another with {cache.kind.option}")


def _plain(tree: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(tree))  # without tuples


def find_corrupt_shards(cache: Cache, quick: bool = False) -> dict[str, str]:
    """What is wrong with each corrupt shard, by file; `quick` reads only the ends of files that have own checksums."""

    def problem(shard: Shard) -> str:
        path = cache.folder / shard.file
        try:
            if (size := path.stat().st_size) != shard.bytes:
                return f"holds {size:,} bytes instead of {shard.bytes:,}"
            ends = quick and path.suffix != SUFFIX
            same = _sha256(path, ends) == (shard.ends_sha256 if ends else shard.sha256)
            return "" if same else "its bytes are not those that were written"
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"

    with ThreadPoolExecutor(THREADS) as pool:
        problems = pool.map(problem, cache.shards)
        bar = progress_bar(problems, "checking", len(cache.shards), unit="shard")
        return {shard.file: text for shard, text in zip(cache.shards, bar, strict=True) if text}


def _sha256(path: Path, ends: bool = False) -> str:
    """SHA-256 of a file, or of its first and last bytes."""
    with path.open("rb") as file:
        if not ends:
            return hashlib.file_digest(file, "sha256").hexdigest()
        first = file.read(HEAD)
        file.seek(max(path.stat().st_size - TAIL, 0))
        return hashlib.sha256(first + file.read()).hexdigest()


@contextlib.contextmanager
def write_cache(
    folder: Path, kind: CacheKind, key: Mapping[str, Any], info: Mapping[str, Any], rebuild: bool = False
) -> Iterator[Cache]:
    """Opens a cache for writing, with a lock; the caller fills its gaps and calls finish.

    Earlier shards are kept unless `rebuild` is set; corrupt ones are removed with a warning.

    Raises:
        UserError: where the folder holds other files, is locked by another process, or not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        then = f"name another folder with {kind.option}"
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}; {then}") from error
    with locked(folder / LOCK, f"{folder}: is being written", kind.wait):
        cache = None if rebuild or _is_new(folder, kind) else read_cache(folder, kind, key)
        if cache is None:
            cache = Cache(folder, kind, _plain(key), _plain(info))
        _check(cache, cache.info, info)
        corrupt = find_corrupt_shards(cache)
        for file, problem in corrupt.items():
            logger.warning("%s: %s; it is written again", folder / file, problem)
        cache.complete = cache.complete and not corrupt
        remove_shards(cache, corrupt)
        yield cache


def _is_new(folder: Path, kind: CacheKind) -> bool:
    """Whether the index is missing or broken."""
    path = folder / INDEX
    if not path.exists():
        if any(not name.startswith(".") for name in names_in(folder)):
            raise UserError(f"{folder}: holds other files than {kind.name}; name another folder with {kind.option}")
        return True
    with contextlib.suppress(OSError):  # which read_cache tells
        try:
            json.loads(read_file(path, MAX_INDEX))
        except (ValueError, RecursionError):
            logger.warning("%s: broken; all shards are written again", path)
            return True
    return False


def remove_shards(cache: Cache, files: Iterable[str]) -> None:
    """Removes shards, and leftovers of interrupted runs."""
    if removed := set(files):
        cache.shards = [shard for shard in cache.shards if shard.file not in removed]
    if removed or not cache.complete:
        _save(cache)
    kept = {shard.file for shard in cache.shards}
    # A complete index may be damaged, and what it does not name be what it has lost.
    patterns = LEFTOVERS if removed or not cache.complete else (TEMPORARY,)
    for path in (path for pattern in patterns for path in cache.folder.glob(pattern) if path.name not in kept):
        remove(path)


def finish(cache: Cache) -> None:
    """Marks a cache as complete."""
    if not cache.complete:
        cache.complete = True
        _save(cache)


def _save(cache: Cache) -> None:
    tree: dict[str, Any] = {"version": VERSION, "kind": cache.kind.name, "complete": cache.complete}
    tree |= {"digest": key_digest(cache.key), "key": cache.key, "info": cache.info}
    write_json(cache.folder / INDEX, tree | {"shards": [dataclasses.asdict(shard) for shard in cache.shards]})


def gaps(cache: Cache, total: int, part: str = "") -> list[tuple[int, int]]:
    """The ranges [start, stop) of positions of a part that no shard holds."""
    shards = cache.shards_of(part)
    starts = [0, *(shard.start + shard.size for shard in shards)]
    stops = [*(shard.start for shard in shards), total]
    return [(start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop]


def write_shard(
    cache: Cache, file: str, start: int, size: int, write: Callable[[Path], Mapping[str, Any]], part: str = ""
) -> None:
    """Atomically adds a shard; `write` writes it to a path and returns its info.

    Raises:
        UserError: where it cannot be written.
    """
    path = cache.folder / file
    temporary = path.with_name(f".{file}.{os.getpid()}.tmp")
    try:
        info = dict(write(temporary))
        digests = _sha256(temporary), _sha256(temporary, ends=True)
        shard = Shard(file, start, size, temporary.stat().st_size, *digests, part, info)
        temporary.replace(path)
    except OSError as error:
        reason = f"{error.strerror or error}; run {cache.kind.command} again, which resumes"
        raise UserError(f"{path}: cannot be written: {reason}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    cache.shards = sorted([*cache.shards, shard], key=lambda shard: (shard.part, shard.start))
    _save(cache)


def write_arrays(cache: Cache, start: int, size: int, arrays: Mapping[str, np.ndarray], part: str = "") -> None:
    """Adds a shard of named arrays with one row per position, or ragged; see write_shard and ragged."""

    def write(path: Path) -> dict[str, Any]:
        path.write_bytes(safetensors.save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))
        return {}

    write_shard(cache, f"{part}{'-' * bool(part)}{start:012d}{SUFFIX}", start, size, write, part)


def ragged(name: str, rows: Sequence[bytes | np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of different lengths as two arrays: their concatenation, and its row boundaries NAME.ends."""
    arrays = [np.frombuffer(row, np.uint8) if isinstance(row, bytes) else row for row in rows]
    content = np.concatenate(arrays) if arrays else np.empty(0, np.uint8)
    return {name: content, f"{name}{ENDS}": np.cumsum([0, *map(len, rows)]).astype(np.int64)}


class ArrayReader:
    """Reads the named arrays of a cache by position, from memory-mapped shards."""

    def __init__(self, cache: Cache) -> None:
        self._starts = np.array([shard.start for shard in cache.shards], np.int64)
        self._files = [safe_open(cache.folder / shard.file, "numpy") for shard in cache.shards]
        self.names: list[str] = sorted(self._files[0].keys()) if self._files else []
        spans = [np.arange(shard.start, shard.start + shard.size) for shard in cache.shards]
        self.positions: Int64[np.ndarray, " n"] = np.concatenate([np.empty(0, np.int64), *spans])

    def take(self, name: str, positions: Int[np.ndarray, " b"]) -> Shaped[np.ndarray, "b ..."]:
        """The rows at positions, which must exist."""
        shards = np.searchsorted(self._starts, positions, side="right") - 1
        rows = (positions - self._starts[shards]).tolist()
        return np.concatenate([self._read(s, name, row, row + 1) for s, row in zip(shards.tolist(), rows, strict=True)])

    def take_ragged(self, name: str, position: int) -> Shaped[np.ndarray, "_ ..."]:
        """The row at a position of a ragged array."""
        shard = int(np.searchsorted(self._starts, position, side="right")) - 1
        row = position - int(self._starts[shard])
        return self._read(shard, name, *self._read(shard, f"{name}{ENDS}", row, row + 2).tolist())

    def all(self, name: str) -> Shaped[np.ndarray, "n ..."]:
        """All rows of an array, in order of their positions."""
        return np.concatenate([file.get_tensor(name) for file in self._files]) if self._files else np.empty(0)

    def _read(self, shard: int, name: str, begin: int, end: int) -> Shaped[np.ndarray, "_ ..."]:
        array = self._files[shard].get_slice(name)
        if begin == end:  # safetensors rejects an empty slice at the end
            return self._files[shard].get_tensor(name) if array.get_shape()[0] == 0 else array[:1][:0]
        return array[begin:end]
