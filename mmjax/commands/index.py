"""A cached index of embeddings with nearest-neighbor search; see mmjax/data/shard_cache.py.

Items can always be added. An item has changed if its time or size has. The arrays of a shard:

    names       uint8 [bytes]   a line of JSON per item; the last of equal names counts
    stamps      int64 [p, 2]    modification time and size
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
from safetensors import SafetensorError, safe_open

from mmjax.data import shard_cache
from mmjax.data.shard_cache import ArrayReader, Cache, CacheKind, key_digest, write_arrays
from mmjax.export import PretrainedImageEncoder, PretrainedModel, PretrainedTextEncoder
from mmjax.files import params_digest

KIND = CacheKind("embeddings", "mmjax search", "--keep=DIR; --rebuild embeds everything again")
MAX_COMPARED = 100_000  # embeddings for an exact search; more are searched with usearch
CANDIDATES = 256  # minimum candidates of usearch, which are compared exactly
WRITE_SECONDS = 300.0  # between writes of shards, which bounds what an interruption loses
MAX_SHARDS = 64  # more are merged
GRAPH = ".usearch"

logger = logging.getLogger(__name__)
Stamp = tuple[int, int]
Embedded = tuple[list[str], np.ndarray]  # names, and their embeddings, float32 [m, e]


@dataclasses.dataclass(frozen=True)
class Index:
    """Names and embeddings of items.

    Attributes:
        folder, key: of the cache, the key as a digest.
        names: unique names of the items.
        stamps: modification time and size of each.
        embeddings: of length 1.
    """

    folder: Path
    key: str
    names: list[str]
    stamps: Int64[np.ndarray, "n 2"]
    embeddings: Float32[np.ndarray, "n e"]


def index_cache_key(model: Any, of: str) -> dict[str, Any]:
    """Cache key of an index of "images" or "texts" by a model."""
    if isinstance(model, PretrainedModel):
        return {"of": of, "model": _pretrained_key(model)}
    config = model.config
    data = {name: getattr(config.data, name) for name in ("source", "size", "resize")}
    digests = {"params": params_digest(model.params), "tokenizer": hashlib.sha256(model.tokenizer.proto).hexdigest()}
    return {"of": of, "data": data, "text": {"length": config.text.length}, "model": digests}


def _pretrained_key(model: PretrainedModel) -> dict[str, Any]:
    key: dict[str, Any] = {"params": params_digest(model.params), "settings": dict(model.checkpoint.settings)}
    if isinstance(model, PretrainedTextEncoder):
        key["tokenizer"] = hashlib.sha256(model.tokenizer.serialized()).hexdigest()
        key["pooling"] = model.pooling and dataclasses.asdict(model.pooling)
    if isinstance(model, PretrainedImageEncoder):
        key["images"] = dataclasses.asdict(model.images)
    plain: dict[str, Any] = json.loads(json.dumps(key))
    return plain


def update(
    folder: Path,
    key: Mapping[str, Any],
    wanted: Mapping[str, Stamp],
    embed: Callable[[Sequence[str]], Iterable[Embedded]],
    rebuild: bool = False,
    width: int | None = None,
) -> Index | None:
    """Brings a cached index up to date: embeds new and changed items, and leaves out deleted ones.

    Args:
        folder: of the cache.
        key: see index_cache_key.
        wanted: stamps by name.
        embed: yields embeddings of names in batches; it may leave out unreadable ones.
        rebuild: embed everything again.
        width: of the embeddings; None: any.

    Returns:
        The index; None if nothing could be embedded.

    Raises:
        UserError: if the folder holds anything but embeddings of this key, or cannot be written.
    """
    cache = None if rebuild else shard_cache.read_cache(folder, KIND, key)
    intact = cache and not shard_cache.find_corrupt_shards(cache) and not _damaged_shards(cache, width)
    if cache and intact and _rows(cache, wanted).keys() == wanted.keys():
        return _select(cache, wanted)
    with shard_cache.write_cache(folder, KIND, key, {}, rebuild) as cache:
        shard_cache.finish(cache)  # more can always be added
        for file in (damaged := _damaged_shards(cache, width)):
            logger.warning("%s: holds no embeddings of this model; it is written again", folder / file)
        shard_cache.remove_shards(cache, damaged)
        known, old = _rows(cache, wanted), [shard.file for shard in cache.shards]
        if len(old) > MAX_SHARDS or sum(shard.size for shard in cache.shards) > 2 * len(known):
            current = _select(cache, wanted)
            _write(cache, [(current.names, current.embeddings)] if current else [], wanted)
            shard_cache.remove_shards(cache, old)
        new = [name for name in wanted if name not in known]
        waiting, last = list[Embedded](), time.monotonic()
        for batch in embed(new) if new else ():
            waiting.append(_finite(batch))
            if time.monotonic() - last >= WRITE_SECONDS:
                _write(cache, waiting, wanted)
                waiting, last = [], time.monotonic()
        _write(cache, waiting, wanted)
    return _select(cache, wanted)


def _damaged_shards(cache: Cache, width: int | None) -> list[str]:
    """Files of shards whose bytes are those that the index names, but are not what `_write` writes."""
    return [shard.file for shard in cache.shards if not _is_whole(cache.folder / shard.file, shard.size, width)]


def _is_whole(path: Path, size: int, width: int | None) -> bool:
    try:
        with safe_open(path, "numpy") as file:
            lines, stamps, embeddings = map(file.get_tensor, ("names", "stamps", "embeddings"))
        names = [json.loads(line) for line in lines.tobytes().splitlines()]
    except (SafetensorError, ValueError, TypeError, RecursionError):
        return False
    shapes = (len(names), *stamps.shape, *embeddings.shape)
    types = (stamps.dtype, embeddings.dtype) == (np.int64, np.float32) and {*map(type, names)} == {str}
    return types and shapes == (size, size, 2, size, width or shapes[-1]) and bool(np.isfinite(embeddings).all())


def _finite(batch: Embedded) -> Embedded:
    """The batch without items whose embeddings overflow, which are near to nothing."""
    good = np.isfinite(batch[1]).all(axis=1)
    if not good.all():
        names = [name for name, kept in zip(batch[0], good, strict=True) if not kept]
        logger.warning("left out: %d whose embeddings are not finite, the first: %s", len(names), names[0])
    return [name for name, kept in zip(batch[0], good, strict=True) if kept], batch[1][good]


def _write(cache: Cache, batches: Sequence[Embedded], wanted: Mapping[str, Stamp]) -> None:
    """Writes batches as a shard, if they are not empty."""
    if names := [name for some, _ in batches for name in some]:
        start = max((shard.start + shard.size for shard in cache.shards), default=0)
        lines = "".join(json.dumps(name) + "\n" for name in names).encode()
        stamps = np.array([wanted[name] for name in names], np.int64)
        arrays: dict[str, np.ndarray] = {"names": np.frombuffer(lines, np.uint8), "stamps": stamps}
        arrays["embeddings"] = np.concatenate([rows for _, rows in batches]).astype(np.float32)
        write_arrays(cache, start, len(names), arrays)


def _rows(cache: Cache, wanted: Mapping[str, Stamp]) -> dict[str, int]:
    """Rows in the cache of the wanted items whose stamps match, by name."""
    reader = ArrayReader(cache)
    names = map(json.loads, reader.all("names").tobytes().splitlines())
    pairs = enumerate(zip(names, map(tuple, reader.all("stamps").tolist()), strict=True))
    return {name: row for row, (name, stamp) in pairs if wanted.get(name) == stamp}


def _select(cache: Cache, wanted: Mapping[str, Stamp]) -> Index | None:
    """The index of the wanted items in the cache; None if it has none of them."""
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
    """Returns the indices and cosine similarities of the nearest items to a vector, nearest first.

    The search is exact, but among more than 100,000 items usearch, if installed, selects candidates with a graph (HNSW,
    Malkov and Yashunin 2016, arXiv:1603.09320) cached beside the embeddings.

    Args:
        query: of length 1.
        top: number of items.
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
    """The file of the graph of these items."""
    digest = hashlib.sha256(json.dumps([index.key, index.names, index.stamps.tolist()]).encode()).hexdigest()
    return index.folder / f"{digest[:16]}{GRAPH}"


def _candidates(index: Index, query: Float[np.ndarray, " e"], top: int) -> Int64[np.ndarray, " k"]:
    from usearch.index import Index as Graph  # an extra

    count, width = index.embeddings.shape
    graph: Any = Graph(ndim=width, metric="ip", dtype="f32")
    file, is_valid = _graph(index), False
    with contextlib.suppress(Exception):  # usearch raises anything for a corrupt file
        if file.exists():
            graph.view(str(file))
            is_valid = (len(graph), graph.ndim) == (count, width)
    if not is_valid:
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
    candidates = min(count, max(CANDIDATES, 2 * top))
    graph.expansion_search = 2 * candidates
    return np.sort(graph.search(query.astype(np.float32), candidates).keys.astype(np.int64))
