"""Embeddings of many things, kept in a file, and the nearest of them.

The file is bound to the model that made it. A change of a thing is told by its time and size, as `make` tells it.
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
from safetensors.numpy import save

from mmjax.data.tokens import fingerprint
from mmjax.export import DualEncoder
from mmjax.files import write_file
from mmjax.types import UserError

FORMAT = "mmjax index 1"
MAX_COMPARED = 100_000  # with each of which a query is compared; among more a library searches
CANDIDATES = 256  # that it finds at least, of which the best are taken
WRITE_SECONDS = 300.0  # between writes while an index is made, so that little is lost where that is stopped

logger = logging.getLogger(__name__)
Stamp = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Index:
    """Embedded things.

    Attributes:
        names: of the things, all different.
        stamps: time and size of each.
        embeddings: of length 1.
    """

    names: list[str]
    stamps: Int64[np.ndarray, "n 2"]
    embeddings: Float32[np.ndarray, "n e"]


def address(model: DualEncoder, kind: str) -> dict[str, str]:
    """What an index of "images" or "texts" by this model is bound to."""
    data = model.config.data
    seen = json.dumps([kind, data.source, data.size, data.resize, model.config.text.length])
    parts = (fingerprint(model.params).encode(), seen.encode(), model.tokenizer.proto)
    return {"format": FORMAT, "of": kind, "model": hashlib.sha256(b"\n".join(parts)).hexdigest()}


def read_index(path: Path, wanted: Mapping[str, str]) -> Index | None:
    """The index in a file; None where there is no file.

    Raises:
        UserError: where it is broken, or of another address.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, "numpy") as file:
            found = file.metadata() or {}
            if found.get("format") != FORMAT:
                raise UserError(f"{path}: is no index of mmjax search; name another file with --keep")
            names = json.loads(file.get_tensor("names").tobytes())
            index = Index(names, file.get_tensor("stamps"), file.get_tensor("embeddings"))
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise UserError(f"{path}: cannot be read ({_in_a_line(error)}); make it anew with --rebuild") from error
    if found.get("of") != wanted["of"]:
        raise UserError(f"{path}: is an index of {found.get('of')}, not of {wanted['of']}; name another with --keep")
    if found.get("model") != wanted["model"]:
        raise UserError(f"{path}: was made by another model; make it anew with --rebuild, or name another with --keep")
    return index


def write_index(path: Path, index: Index, bound: Mapping[str, str]) -> None:
    """Writes an index, whole or not at all.

    Raises:
        UserError: where it cannot be written.
    """
    with contextlib.suppress(OSError):
        _graph(path).unlink(missing_ok=True)  # which is that of other embeddings from now on
    names = np.frombuffer(json.dumps(index.names).encode(), np.uint8)
    arrays = {"names": names, "stamps": index.stamps, "embeddings": np.ascontiguousarray(index.embeddings)}
    try:
        write_file(path, save(arrays, dict(bound)))
    except UserError as error:
        raise UserError(f"{error}; name another file with --keep") from None


def update(
    old: Index | None,
    wanted: Mapping[str, Stamp],
    embed: Callable[[Sequence[str]], Iterable[tuple[list[str], Float32[np.ndarray, "m e"]]]],
    write: Callable[[Index], None],
) -> Index | None:
    """The index of what is wanted: what is new or has changed is embedded, what is gone is left out.

    Args:
        old: what there is.
        wanted: stamps by name.
        embed: those names, some at a time; names that it does not give cannot be embedded.
        write: keeps an index; called where it is another than `old`, now and then on the way and in the end.

    Returns:
        None where nothing could be embedded.
    """
    known: dict[str, np.ndarray] = {}
    if old is not None:
        rows = zip(old.names, old.stamps.tolist(), old.embeddings, strict=True)
        known = {name: row for name, stamp, row in rows if wanted.get(name) == tuple(stamp)}
    new, last = [name for name in wanted if name not in known], time.monotonic()
    for names, embeddings in embed(new) if new else ():
        known.update(zip(names, embeddings, strict=True))
        if time.monotonic() - last >= WRITE_SECONDS:
            write(_index(known, wanted))
            last = time.monotonic()
    if not known:
        return None
    index = _index(known, wanted)
    if old is None or old.names != index.names or not np.array_equal(old.stamps, index.stamps):
        write(index)
    return index


def _index(known: Mapping[str, np.ndarray], wanted: Mapping[str, Stamp]) -> Index:
    names = [name for name in wanted if name in known]
    stamps = np.array([wanted[name] for name in names], np.int64).reshape(-1, 2)
    return Index(names, stamps, np.stack([known[name] for name in names]))


def nearest(
    index: Index, path: Path, query: Float[np.ndarray, " e"], top: int
) -> tuple[Int[np.ndarray, " k"], Float32[np.ndarray, " k"]]:
    """The places and the cosines of the things that are nearest to a vector, the nearest first.

    All are compared with it. Of more than 100,000, usearch, where it is installed, says which may be the nearest, and
    those alone are compared: by a graph (Malkov and Yashunin 2016, arXiv:1603.09320) kept beside the index.

    Args:
        path: of the index.
        query: of length 1.
        top: how many.
    """
    places = np.arange(len(index.names))
    if len(places) > MAX_COMPARED:
        if importlib.util.find_spec("usearch") is None:
            logger.warning("comparing with all of %s; pip install '.[search]' makes it quicker", f"{len(places):,}")
        else:
            places = _candidates(index, path, query, top)
    cosines = index.embeddings[places] @ query.astype(np.float32)
    best = np.argsort(-cosines, kind="stable")[:top]
    return places[best], cosines[best]


def _graph(path: Path) -> Path:
    return path.with_name(f"{path.name}.usearch")


def _candidates(index: Index, path: Path, query: Float[np.ndarray, " e"], top: int) -> Int64[np.ndarray, " k"]:
    from usearch.index import Index as Graph  # an extra

    count, width = index.embeddings.shape
    graph: Any = Graph(ndim=width, metric="ip", dtype="f32")
    file, there = _graph(path), False
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
            temporary.replace(file)
        except (OSError, RuntimeError) as error:
            logger.warning("%s: cannot be kept: %s", file, _in_a_line(error))
    found = min(count, max(CANDIDATES, 2 * top))
    graph.expansion_search = 2 * found
    return np.sort(graph.search(query.astype(np.float32), found).keys.astype(np.int64))


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())
