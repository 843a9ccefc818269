"""Shards of named arrays in safetensors files, for mmjax/data/shard_cache.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int64, Shaped
from safetensors import numpy as safetensors
from safetensors import safe_open

from mmjax.data.shard_cache import SUFFIX, Cache, write_shard

ENDS = ".ends"  # of a ragged array


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
