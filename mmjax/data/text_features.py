"""Features of captions by a frozen text encoder, each computed once: adding to a cache of them, and reading it.

A cache is a folder. `index.json` says what the features follow from (the address) and names the shards, in order; it is
written anew with every shard, so that a cache is whole at any time and can always take more captions. The arrays of a
shard, a safetensors file:

    features  float16 [n, d]  of the tokens of all its captions, one caption after the other
    ends      int64 [m + 1]   where each caption's features begin, and the last one's end
    names     uint64 [m]      the first 8 bytes of the SHA-256 of each caption; equal captions are there once
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float16, UInt64
from safetensors import SafetensorError, safe_open
from safetensors import numpy as safetensors

from mmjax.config import Config, differences, to_dict
from mmjax.data.tokens import INDEX, Shard, damages, fingerprint
from mmjax.data.write_tokens import SUFFIX, clear
from mmjax.files import write_file, write_json
from mmjax.progress import progress_bar
from mmjax.types import Params, UserError

FORMAT = 1
CAPTIONS = 4096  # of a shard, about

Encode = Callable[[Sequence[str]], tuple[Float16[np.ndarray, "b t d"], Bool[np.ndarray, "b t"]]]


@dataclass(frozen=True)
class Index:
    """What a cache holds: what the features follow from (see text_address), and the shards, in order."""

    address: dict[str, Any]
    shards: list[Shard]


def text_address(params: Params, tokenizer: bytes, config: Config) -> dict[str, Any]:
    """What the features of a caption follow from, as plain data; where two addresses are equal, so are the features.

    Args:
        params: of the text encoder.
        tokenizer: its text tokenizer.
        config: the config of what is trained on the features; its text.length and text_encoder count.
    """
    return {
        "format": FORMAT,
        "length": config.text.length,
        "encoder": {
            "settings": to_dict(config)["text_encoder"],
            "parameters": fingerprint(params),
            "tokenizer": hashlib.sha256(tokenizer).hexdigest(),
        },
    }


def cached_text_features(
    folder: Path,
    address: Mapping[str, Any],
    captions: Iterable[str],
    encode: Encode,
    batch: int = 64,
    repair: bool = False,
    per_shard: int = CAPTIONS,
) -> "TextFeatures":
    """The features of captions, and of the empty text; those that the cache lacks are computed first, and kept.

    Args:
        folder: of the cache; made where it is missing.
        address: what the features must follow from; see text_address.
        captions: in any order; each may come often.
        encode: texts to their features, and which of them are of a token: the first ones of each row. There are always
            `batch` texts.
        repair: compute again what is damaged.
        per_shard: captions in a shard, rounded down to whole batches.

    Raises:
        UserError: where the folder holds the features of another text encoder or something else, is damaged, or cannot
            be written.
    """
    index = _begin(folder, address, repair)
    known = set(_names(folder, index).tolist())
    missing = {number: text for text in itertools.chain([""], captions) if (number := _name(text)) not in known}
    if missing:
        clear(folder, index.shards)
    waiting = iter(missing.items())
    bar = progress_bar(None, "encoding captions", len(missing), unit="caption")
    with bar:
        while part := list(itertools.islice(waiting, max(per_shard // batch, 1) * batch)):
            content = safetensors.save(_shard(dict(part), encode, batch, bar.update))
            file = f"{sum(shard.positions for shard in index.shards):012d}{SUFFIX}"
            write_file(folder / file, content)
            index.shards.append(Shard(file, len(part), len(content), hashlib.sha256(content).hexdigest()))
            write_json(folder / INDEX, dataclasses.asdict(index))
    return TextFeatures(folder, index)


class TextFeatures:
    """The features in a cache, mapped into memory: those of a caption are read when it is asked for."""

    def __init__(self, folder: Path, index: Index):
        self._folder, self._length = folder, int(index.address["length"])
        files = [_opened(folder / shard.file) for shard in index.shards]
        self._features = [file.get_slice("features") for file in files]
        self._ends = [file.get_tensor("ends") for file in files]
        self._first = np.cumsum([0, *(shard.positions for shard in index.shards)])
        names = _names(folder, index)
        self._order = np.argsort(names)
        self._names = names[self._order]

    def __call__(self, texts: Sequence[str]) -> Float16[np.ndarray, "b t d"]:
        """The features of each text's tokens, then 0."""
        width = self._features[0].get_shape()[1]
        found = np.zeros((len(texts), self._length, width), np.float16)
        names = np.array([_name(text) for text in texts], np.uint64)
        places = np.minimum(np.searchsorted(self._names, names), len(self._names) - 1)
        for row, (place, name, text) in enumerate(zip(places, names, texts, strict=True)):
            if self._names[place] != name:
                raise UserError(f"{self._folder}: has no features of {text[:60]!r}; run mmjax prepare")
            number = self._order[place]
            shard = int(np.searchsorted(self._first, number, side="right")) - 1
            begin, end = self._ends[shard][number - self._first[shard] :][:2].tolist()
            found[row, : end - begin] = self._features[shard][begin:end]
        return found


def _begin(folder: Path, address: Mapping[str, Any], repair: bool) -> Index:
    """The index so far; of what is damaged, where it may be repaired, what is before it."""
    other = "remove the folder, or take another with --config.tokens.cache=DIR"
    path = folder / INDEX
    if not path.exists():
        if any(not file.name.startswith(".") and file.suffix != SUFFIX for file in folder.glob("*")):
            raise UserError(f"{folder}: holds no cached text features, but something else; {other}")
        return Index(json.loads(json.dumps(address)), [])
    try:
        tree = json.loads(path.read_bytes())
        index = Index(tree["address"], [Shard(**row) for row in tree["shards"]])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: no index of cached text features; remove {folder} and prepare it again") from error
    changed = {name: (was, now) for name, was, now in differences(index.address, json.loads(json.dumps(address)))}
    if changed.keys() == {"length"}:
        was, now = changed["length"]
        raise UserError(f"{folder}: holds features of texts of {was} tokens, and text.length now is {now}; {other}")
    if changed:
        raise UserError(f"{folder}: holds the features of another text encoder; {other}")
    problems = list(damages(folder, index.shards))
    if any(problems) and not repair:
        raise UserError(f"{next(filter(None, problems))}; run mmjax prepare to encode it again")
    whole = itertools.takewhile(lambda pair: not pair[1], zip(index.shards, problems, strict=True))
    index = dataclasses.replace(index, shards=[shard for shard, _ in whole])
    if any(problems):
        write_json(path, dataclasses.asdict(index))
    return index


def _names(folder: Path, index: Index) -> UInt64[np.ndarray, "n"]:
    """Of all captions, in order."""
    parts = [_opened(folder / shard.file).get_tensor("names") for shard in index.shards]
    return np.concatenate([np.empty(0, np.uint64), *parts])


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, "numpy")
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run mmjax prepare to encode it again") from error


def _shard(
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
    ends = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    return {"features": np.concatenate(rows), "ends": ends, "names": np.array(list(captions), np.uint64)}


def _name(text: str) -> int:
    """The number that stands for a caption; that any two of ten million share one has a chance of 3 in a million."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little")
