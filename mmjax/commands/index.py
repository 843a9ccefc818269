"""Embeddings of many things, kept in a cache, and the nearest of them; see mmjax/data/shard_cache.py.

Things can always be added. A change of one is told by its time and size, as `make` tells it. The arrays of a shard:

    names       uint8 [bytes]   a line of JSON for each thing; the last of equal names counts
    stamps      int64 [p, 2]    time and size
    embeddings  float32 [p, e]  of length 1
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int, Int64

from mmjax.data import shard_cache
from mmjax.data.shard_arrays import ArrayReader, write_arrays
from mmjax.data.shard_cache import Cache, CacheKind, key_digest, params_digest
from mmjax.export import DualEncoder

KIND = CacheKind("embeddings", "mmjax search", "--keep=DIR; --rebuild embeds everything again")
MAX_COMPARED = 100_000  # with each of which a query is compared; among more a library searches
CANDIDATES = 256  # that it finds at least, of which the best are taken
WRITE_SECONDS = 300.0  # between writes while an index is made, so that little is lost where that is stopped
MAX_SHARDS = 64  # of what was added little by little; more are put together
GRAPH = ".usearch"

logger = logging.getLogger(__name__)
Stamp = tuple[int, int]
Embedded = tuple[list[str], np.ndarray]  # names, and their embeddings, float32 [m, e]


@dataclasses.dataclass(frozen=True)
class Index:
    """Embedded things.

    Attributes:
        folder, key: of the cache, the key as a digest.
        names: of the things, all different.
        stamps: time and size of each.
        embeddings: of length 1.
    """

    folder: Path
    key: str
    names: list[str]
    stamps: Int64[np.ndarray, "n 2"]
    embeddings: Float32[np.ndarray, "n e"]


def index_cache_key(model: DualEncoder, of: str) -> dict[str, Any]:
    """What an index of "images" or "texts" by this model follows from."""
    config = model.config
    data = {name: getattr(config.data, name) for name in ("source", "size", "resize")}
    digests = {"params": params_digest(model.params), "tokenizer": hashlib.sha256(model.tokenizer.proto).hexdigest()}
    return {"of": of, "data": data, "text": {"length": config.text.length}, "model": digests}


def update(
    folder: Path,
    key: Mapping[str, Any],
    wanted: Mapping[str, Stamp],
    embed: Callable[[Sequence[str]], Iterable[Embedded]],
    rebuild: bool = False,
) -> Index | None:
    """The index of what is wanted: what is new or has changed is embedded and kept, what is gone is left out.

    Args:
        folder: of the cache.
        key: see index_cache_key.
        wanted: stamps by name.
        embed: those names, some at a time; names that it does not give cannot be embedded.
        rebuild: embed all of it again.

    Returns:
        None where nothing could be embedded.

    Raises:
        UserError: where the folder holds embeddings of another key or anything else, or cannot be written.
    """
    cache = None if rebuild else shard_cache.read_cache(folder, KIND, key)
    if cache and not shard_cache.find_corrupt_shards(cache) and _rows(cache, wanted).keys() == wanted.keys():
        return _select(cache, wanted)
    with shard_cache.write_cache(folder, KIND, key, {}, rebuild) as cache:
        shard_cache.finish(cache)  # more can always be added
        known, old = _rows(cache, wanted), [shard.file for shard in cache.shards]
        if len(old) > MAX_SHARDS or sum(shard.size for shard in cache.shards) > 2 * len(known):
            kept = _select(cache, wanted)
            _write(cache, [(kept.names, kept.embeddings)] if kept else [], wanted)
            shard_cache.remove_shards(cache, old)
        new = [name for name in wanted if name not in known]
        waiting, last = list[Embedded](), time.monotonic()
        for batch in embed(new) if new else ():
            waiting.append(batch)
            if time.monotonic() - last >= WRITE_SECONDS:
                _write(cache, waiting, wanted)
                waiting, last = [], time.monotonic()
        _write(cache, waiting, wanted)
    return _select(cache, wanted)


def _write(cache: Cache, batches: Sequence[Embedded], wanted: Mapping[str, Stamp]) -> None:
    """Adds a shard of some batches, if there are any."""
    if names := [name for some, _ in batches for name in some]:
        start = max((shard.start + shard.size for shard in cache.shards), default=0)
        lines = "".join(json.dumps(name) + "\n" for name in names).encode()
        stamps = np.array([wanted[name] for name in names], np.int64)
        arrays: dict[str, np.ndarray] = {"names": np.frombuffer(lines, np.uint8), "stamps": stamps}
        arrays["embeddings"] = np.concatenate([rows for _, rows in batches]).astype(np.float32)
        write_arrays(cache, start, len(names), arrays)


def _rows(cache: Cache, wanted: Mapping[str, Stamp]) -> dict[str, int]:
    """Which row of all in the cache each thing has that is wanted as it is there."""
    reader = ArrayReader(cache)
    names = map(json.loads, reader.all("names").tobytes().splitlines())
    pairs = enumerate(zip(names, map(tuple, reader.all("stamps").tolist()), strict=True))
    return {name: row for row, (name, stamp) in pairs if wanted.get(name) == stamp}


def _select(cache: Cache, wanted: Mapping[str, Stamp]) -> Index | None:
    """The index of what is wanted, as far as the cache has it; None where it has nothing of it."""
    rows = _rows(cache, wanted)
    if not rows:
        return None
    names = [name for name in wanted if name in rows]
    stamps = np.array([wanted[name] for name in names], np.int64)
    embeddings = ArrayReader(cache).all("embeddings")[[rows[name] for name in names]]
    return Index(cache.folder, key_digest(cache.key), names, stamps, embeddings)


def nearest(
    index: Index, query: Float[np.ndarray, " e"], top: int
) -> tuple[Int[np.ndarray, " k"], Float32[np.ndarray, " k"]]:
    """The places and the cosines of the things that are nearest to a vector, the nearest first.

    All are compared with it. Of more than 100,000, usearch, where it is installed, says which may be the nearest, and
    those alone are compared: by a graph (Malkov and Yashunin 2016, arXiv:1603.09320) kept beside the embeddings.

    Args:
        query: of length 1.
        top: how many.
    """
    places = np.arange(len(index.names))
    if len(places) > MAX_COMPARED:
        if importlib.util.find_spec("usearch") is None:
            logger.warning("comparing with all of %s; pip install '.[search]' makes it quicker", f"{len(places):,}")
        else:
            places = _candidates(index, query, top)
    cosines = index.embeddings[places] @ query.astype(np.float32)
    best = np.argsort(-cosines, kind="stable")[:top]
    return places[best], cosines[best]


def _graph(index: Index) -> Path:
    """The file of a graph, another one for other things."""
    digest = hashlib.sha256(json.dumps([index.key, index.names, index.stamps.tolist()]).encode()).hexdigest()
    return index.folder / f"{digest[:16]}{GRAPH}"


def _candidates(index: Index, query: Float[np.ndarray, " e"], top: int) -> Int64[np.ndarray, " k"]:
    from usearch.index import Index as Graph  # an extra

    count, width = index.embeddings.shape
    graph: Any = Graph(ndim=width, metric="ip", dtype="f32")
    file, there = _graph(index), False
    with contextlib.suppress(Exception):  # whatever the library makes of a file that is no graph
        if file.exists():
            graph.view(str(file))
            there = (len(graph), graph.ndim) == (count, width)
    if not there:
        graph = Graph(ndim=width, metric="ip", dtype="f32")
        graph.add(np.arange(count), index.embeddings, log=f"indexing {count:,}")
        temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
        try:
            graph.save(str(temporary))
            for old in index.folder.glob(f"*{GRAPH}"):
                old.unlink()
            temporary.replace(file)
        except (OSError, RuntimeError) as error:
            logger.warning("%s: cannot be kept: %s", file, " ".join(str(error).split()))
    found = min(count, max(CANDIDATES, 2 * top))
    graph.expansion_search = 2 * found
    return np.sort(graph.search(query.astype(np.float32), found).keys.astype(np.int64))
