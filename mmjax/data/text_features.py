"""Features of captions by a frozen text encoder, each computed once: adding to a cache of them, and reading it.

See mmjax/data/shard_cache.py. Each distinct caption has a position; more can always be added. The arrays of a shard:

    features  float16 ragged [t, d]  of the tokens of each caption
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
from mmjax.data.shard_arrays import ArrayReader, ragged, write_arrays
from mmjax.data.shard_cache import Cache, CacheKind, params_digest
from mmjax.progress import progress_bar
from mmjax.types import Params, UserError

KIND = CacheKind("text features", "mmjax prepare", "--config.tokens.cache=DIR")
CAPTIONS = 4096  # of a shard, about

Encode = Callable[[Sequence[str]], tuple[Float16[np.ndarray, "b t d"], Bool[np.ndarray, "b t"]]]


def text_cache_key(params: Params, tokenizer: bytes, settings: Mapping[str, Any], length: int) -> dict[str, Any]:
    """What the features of a caption follow from, as plain data; where two keys are equal, so are the features.

    Args:
        params: of the text encoder.
        tokenizer: its text tokenizer.
        settings: of the text encoder.
        length: tokens of a text.
    """
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
) -> "TextFeatures":
    """The features of captions, and of the empty text; those that the cache lacks are computed first, and kept.

    Args:
        folder: of the cache; made where it is missing.
        key: what the features must follow from; see text_cache_key.
        captions: in any order; each may come often.
        encode: texts to their features, and which of them are of a token: the first ones of each row. There are always
            `batch` texts.
        repair: compute again what is corrupt.
        per_shard: captions in a shard, rounded down to whole batches.

    Raises:
        UserError: where the folder holds the features of another text encoder or something else, is corrupt, or cannot
            be written.
    """
    texts: Iterable[str] = itertools.chain([""], captions)
    if shard_cache.is_complete(folder, KIND, verify=repair):
        cache = shard_cache.open_cache(folder, KIND, key)
        texts = _missing(cache, texts).values()
        if not texts:
            return TextFeatures(cache)
    with shard_cache.write_cache(folder, KIND, key, {}) as cache:
        shard_cache.finish(cache)  # more can always be added
        missing = _missing(cache, texts)
        waiting = iter(missing.items())
        with progress_bar(None, "encoding captions", len(missing), unit="caption") as bar:
            for start, stop in shard_cache.gaps(cache, sys.maxsize):
                size = max(per_shard // batch, 1) * batch
                while part := dict(itertools.islice(waiting, min(size, stop - start))):
                    write_arrays(cache, start, len(part), _arrays(part, encode, batch, bar.update))
                    start += len(part)
    return TextFeatures(cache)


class TextFeatures:
    """The features in a cache, which are read when they are asked for."""

    def __init__(self, cache: Cache) -> None:
        self._folder, self._length = cache.folder, int(cache.key["text"]["length"])
        self._reader = ArrayReader(cache)
        names, positions = self._reader.all("names"), self._reader.positions
        order = np.argsort(names)
        self._names, self._positions = names[order], positions[order]
        self._width = self._reader.take_ragged("features", int(positions[0])).shape[1]

    def __call__(self, texts: Sequence[str]) -> Float16[np.ndarray, "b t d"]:
        """The features of each text's tokens, then 0."""
        found = np.zeros((len(texts), self._length, self._width), np.float16)
        names = np.array([_name(text) for text in texts], np.uint64)
        places = np.minimum(np.searchsorted(self._names, names), len(self._names) - 1)
        for row, (place, name, text) in enumerate(zip(places, names, texts, strict=True)):
            if self._names[place] != name:
                raise UserError(f"{self._folder}: has no features of {text[:60]!r}; run {KIND.command}")
            features = self._reader.take_ragged("features", int(self._positions[place]))
            found[row, : len(features)] = features
        return found


def _missing(cache: Cache, texts: Iterable[str]) -> dict[int, str]:
    """The texts that a cache lacks, by their names."""
    known = set(ArrayReader(cache).all("names").tolist())
    return {name: text for text in texts if (name := _name(text)) not in known}


def _arrays(
    captions: Mapping[int, str], encode: Encode, batch: int, done: Callable[[int], Any]
) -> dict[str, np.ndarray]:
    """The arrays of a shard of the captions, given by their names."""
    rows: list[np.ndarray] = []
    texts = list(captions.values())
    for start in range(0, len(texts), batch):
        part = texts[start : start + batch]
        features, mask = encode(part + [""] * (batch - len(part)))  # compiled for one size
        rows += [row[: seen.sum()] for row, seen in zip(features[: len(part)], mask, strict=False)]
        done(len(part))
    return {**ragged("features", rows), "names": np.array(list(captions), np.uint64)}


def _name(text: str) -> int:
    """The number that stands for a caption; that any two of ten million share one has a chance of 3 in a million."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little")
