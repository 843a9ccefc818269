"""Cache of the features of captions by a frozen text encoder.

See mmjax/data/shard_cache.py. Each distinct caption has a position; captions can always be added. Arrays of a shard:

    features  float16 ragged [t, d]  features of the tokens of each caption
    names     uint64 [p]             the first 8 bytes of the SHA-256 of each caption
"""

import hashlib
import itertools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float16

from mmjax.data import shard_cache
from mmjax.data.shard_cache import ArrayReader, Cache, CacheKind, ragged, write_arrays
from mmjax.files import params_digest
from mmjax.progress import progress_bar
from mmjax.types import Params, UserError

KIND = CacheKind("text features", "mmjax prepare", "--config.tokens.cache=DIR")
CAPTIONS = 4096  # per shard, approximately

Encode = Callable[[Sequence[str]], tuple[Float16[np.ndarray, "b t d"], Bool[np.ndarray, "b t"]]]
TextFeatures = Callable[[Sequence[str]], Float16[np.ndarray, "b t d"]]  # of the tokens of each text, padded with 0


def text_cache_key(params: Params, tokenizer: bytes, settings: Mapping[str, Any], length: int) -> dict[str, Any]:
    """The cache key, plain data that determines features: the text encoder and the tokens of a text."""
    encoder = {"params": params_digest(params), "tokenizer": hashlib.sha256(tokenizer).hexdigest()}
    return {"text": {"length": length}, "text_encoder": {**settings, **encoder}}


def cached_text_features(
    folder: Path,
    key: Mapping[str, Any],
    captions: Iterable[str],
    encode: Encode,
    batch: int = 64,
    repair: bool = False,
    per_shard: int = CAPTIONS,
) -> TextFeatures:
    """Opens the features of captions and of the empty text; computes and caches missing ones.

    Args:
        key: see text_cache_key.
        captions: in any order, with repetitions.
        encode: (`batch` texts) -> their features, and a mask of the tokens, a prefix of each row.
        repair: recompute corrupt shards.
        per_shard: captions per shard, rounded down to whole batches.

    Raises:
        UserError: where the folder holds features of another text encoder or other files, is corrupt, or not writable.
    """
    texts: Iterable[str] = itertools.chain([""], captions)
    if shard_cache.is_complete(folder, KIND, verify=repair):
        cache = shard_cache.open_cache(folder, KIND, key)
        texts = _missing(cache, texts).values()
        if not texts:
            return _open(cache)
    with shard_cache.write_cache(folder, KIND, key, {}) as cache:
        shard_cache.finish(cache)  # always complete: captions can be added
        missing = _missing(cache, texts)
        waiting = iter(missing.items())
        with progress_bar(None, "encoding captions", len(missing), unit="caption") as bar:
            for start, stop in shard_cache.gaps(cache, sys.maxsize):
                size = max(per_shard // batch, 1) * batch
                while part := dict(itertools.islice(waiting, min(size, stop - start))):
                    write_arrays(cache, start, len(part), _arrays(part, encode, batch, bar.update))
                    start += len(part)
    return _open(cache)


def _open(cache: Cache) -> TextFeatures:
    reader, length = ArrayReader(cache), int(cache.key["text"]["length"])
    names, positions = reader.all("names"), reader.positions
    order = np.argsort(names)
    known, positions = names[order], positions[order]
    width = reader.take_ragged("features", int(positions[0])).shape[1]

    def features(texts: Sequence[str]) -> Float16[np.ndarray, "b t d"]:
        padded = np.zeros((len(texts), length, width), np.float16)
        names = np.array([_name(text) for text in texts], np.uint64)
        places = np.minimum(np.searchsorted(known, names), len(known) - 1)
        for row, (place, name, text) in enumerate(zip(places, names, texts, strict=True)):
            if known[place] != name:
                raise UserError(f"{cache.folder}: has no features of {text[:60]!r}; run {KIND.command}")
            found = reader.take_ragged("features", int(positions[place]))
            padded[row, : len(found)] = found
        return padded

    return features


def _missing(cache: Cache, texts: Iterable[str]) -> dict[int, str]:
    """The texts that a cache lacks, by name."""
    known = set(ArrayReader(cache).all("names").tolist())
    return {name: text for text in texts if (name := _name(text)) not in known}


def _arrays(
    captions: Mapping[int, str], encode: Encode, batch: int, done: Callable[[int], Any]
) -> dict[str, np.ndarray]:
    """The arrays of a shard of captions by name."""
    rows: list[np.ndarray] = []
    texts = iter(captions.values())
    while part := list(itertools.islice(texts, batch)):
        features, mask = encode(part + [""] * (batch - len(part)))  # compiled for one size
        rows += [row[: kept.sum()] for row, kept in zip(features[: len(part)], mask, strict=False)]
        done(len(part))
    return {**ragged("features", rows), "names": np.array(list(captions), np.uint64)}


def _name(text: str) -> int:
    """A 64-bit hash of a caption; ten million captions collide with probability 3e-6."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little")
