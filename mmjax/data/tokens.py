"""Visual tokens encoded once: what a cache of them holds, and reading it as a source, without TensorFlow.

A cache is a folder. `index.json`, written last, says what was encoded by what (the address) and names the shards;
`unfinished.json` is the same while the cache is being written. A shard is a safetensors file of consecutive positions,
named by the first of them. Position p is example p % size of view p // size, a view being what the training stream of
one epoch gives: its crops and flips, in its order. Evaluation has one view, in order. The arrays of a shard:

    codes, ...  unsigned [p, *grid]  what the encoding gives, each in the smallest type that holds it
    key         int64 [p]            names the example
    mask        bool [p]             False: the image could not be read, its codes are 0
    texts       uint8 [...]          for the first view's examples only: JSON of [id, captions], one after the other
    text_ends   int64 [q + 1]        where each of them begins, and the last one ends
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jaxtyping import Int, Integer, Shaped
from safetensors import SafetensorError, safe_open

from mmjax.config import Config, differences, to_dict
from mmjax.data.source import SETTINGS, Examples, ReadSpec, Source, epoch_order, find_source
from mmjax.types import Feature, Params, UserError, leaf_name

FORMAT = 1
INDEX, UNFINISHED = "index.json", "unfinished.json"
KEPT = ("key", "mask", "texts", "text_ends")  # arrays of a shard that the encoding may not name
# Differences that are told in words.
TOLD = {
    "tokenizer.parameters": "the tokenizer's parameters differ",
    "reference.parameters": "the reference tokenizer's parameters differ",
}
SHOWN = 3  # differences in one message
READERS = 4  # shards checked at a time

Split = Literal["train", "evaluation"]


@dataclass(frozen=True)
class Shard:
    """A file of the cache: how many positions it holds, its length in bytes, and its SHA-256."""

    file: str
    positions: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Index:
    """What a cache holds.

    Attributes:
        address: what the tokens follow from; see token_address.
        source: name of the source that was encoded.
        provides: as in Source.
        size: examples in a view.
        views: how often each example was encoded.
        shards: in order.
    """

    address: dict[str, Any]
    source: str
    provides: list[str]
    size: int
    views: int
    shards: list[Shard]


def token_address(
    params: Params, tokenizer: Config, config: Config, split: Split, reference: Params | None = None
) -> dict[str, Any]:
    """What the cached tokens of a split follow from, as plain data; where two addresses are equal, so are the tokens.

    What does not change them is left out: where the data set lies, how it is shuffled, the text tokenizer. Neither does
    the config's seed, except where it draws the images: crops and flips are those of seed 0, so that runs can share a
    cache.

    Args:
        params: of the visual tokenizer, on the host or on this process's devices.
        tokenizer: its config.
        config: the config of what is trained on the tokens; its data and tokens count.
        reference: parameters of the visual tokenizer of the references, where the config has one.
    """
    data, source, training = to_dict(config.data), find_source(config.data), split == "train"
    unused = {"root", "shuffle_buffer", "max_corrupt_fraction", "weight"}
    unused |= set(SETTINGS) - set(source.settings)
    unused |= {"evaluation_split", "evaluation_examples"} if training else {"train_split", "flip"}
    unused |= {"train_split", "evaluation_split", "resize", "flip"} if source.drawn else set()
    unused |= {"frame_rate"} if data["frames"] == 1 else set()
    theirs = {}
    referred = config.component("reference_tokenizer")
    if referred is not None:
        assert reference is not None
        field = getattr(config.model, "reference", "image")
        theirs = {"reference": {"field": field, "size": referred.data.size, **_encoder(referred, reference)}}
    return {
        "format": FORMAT,
        "split": split,
        "data": {name: value for name, value in data.items() if name not in unused},
        **({"seed": config.seed % 2**32} if source.drawn else {}),
        **({"tokens": {"views": config.tokens.num_augmentations}} if training else {}),
        "tokenizer": _encoder(tokenizer, params),
        **theirs,
    }


def _encoder(tokenizer: Config, params: Params) -> dict[str, Any]:
    model = to_dict(tokenizer.model)
    return {"model": model, "parameters": fingerprint(params)}


def fingerprint(params: Params) -> str:
    """SHA-256 over name, type, shape and bytes of each parameter, in the order of their names."""
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    for name, leaf in sorted((leaf_name(path), leaf) for path, leaf in leaves):
        values = np.ascontiguousarray(leaf)
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def open_tokens(folder: Path, address: Mapping[str, Any]) -> Source:
    """Cached tokens as a source; rows have "codes" int32 [b, *grid], and what else was encoded, in place of "image".

    Each epoch takes one of the views of each example: all in turn, another first for the next example. The bytes of
    every shard are checked before anything is read.

    Args:
        folder: of one split.
        address: what the tokens must follow from; see token_address.

    Raises:
        UserError: where the cache is missing, unfinished, of another address, or damaged.
    """
    if not (folder / INDEX).exists():
        state = "not finished" if (folder / UNFINISHED).exists() else "missing"
        raise UserError(f"{folder}: the cached tokens are {state}; run mmjax prepare, which goes on where it stopped")
    index = read_index(folder / INDEX)
    check_address(folder, index.address, address)
    for problem in filter(None, damages(folder, index.shards)):
        raise UserError(f"{problem}; run mmjax prepare to encode it again")
    shards = Shards(folder, index)
    keys = shards.all_keys()
    gather_cache = _rows_by_view(keys)
    size, views = index.size, index.views

    def all_captions() -> Iterator[str]:
        return (caption for row in range(size) for caption in shards.text(row)[1])

    def read(spec: ReadSpec) -> Iterator[Examples]:
        order = functools.lru_cache(maxsize=2)(functools.partial(epoch_order, spec, size))
        for positions in spec.positions():
            epochs, places = np.divmod(positions, size)
            examples = np.array([order(int(e))[p] for e, p in zip(epochs, places, strict=True)], np.int64)
            view = (epochs + examples + spec.seed) % views if spec.training else np.zeros_like(examples)
            rows = gather_cache[view, examples].astype(np.int64)
            ids, captions = zip(*map(shards.text, examples.tolist()), strict=True)
            codes = {name: shards.take(name, rows).astype(np.int32) for name in shards.encoded}
            problem = [f"{i} could not be read when the tokens were made" for i in ids]
            fields = {"epoch": epochs, "id": list(ids), "captions": list(captions), "problem": problem}
            yield {**codes, "mask": shards.take("mask", rows), "key": keys[0, examples], **fields}

    return Source(
        index.source,
        size,
        {name: Feature("codes" if name == "codes" else "text") for name in index.provides},
        all_captions,
        read,
    )


def read_index(path: Path) -> Index:
    """Reads index.json or unfinished.json.

    Raises:
        UserError: where it is broken.
    """
    try:
        tree = json.loads(path.read_bytes())
        return Index(**{**tree, "shards": [Shard(**row) for row in tree["shards"]]})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: not an index of cached tokens; remove {path.parent} and prepare it again") from error


def check_address(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises UserError, naming what differs, where the tokens in the folder do not follow from what is wanted."""
    told: list[str] = []
    for name, was, now in differences(found, json.loads(json.dumps(wanted))):
        if name in TOLD:
            told.insert(0, TOLD[name])
        elif name == "reference":
            told.append("they are without reference codes" if was is None else "they are with reference codes")
        else:
            told.append(f"{name} was {_shown(was)} and now is {_shown(now)}")
    if told:
        more = [f"{len(told) - SHOWN} more differences"] if len(told) > SHOWN else []
        raise UserError(
            f"{folder}: holds other tokens: {', '.join([*told[:SHOWN], *more])}; "
            "remove the folder, or take another with --config.tokens.cache=DIR"
        )


def _shown(value: Any) -> str:
    return "not set" if value is None else value if value and isinstance(value, str) else json.dumps(value)


def damages(folder: Path, shards: Sequence[Shard]) -> Iterator[str]:
    """What is wrong with each shard, "" where it is whole; reads every byte of them."""

    def damage(shard: Shard) -> str:
        path = folder / shard.file
        try:
            if (found := path.stat().st_size) != shard.bytes:
                return f"{path}: holds {found:,} bytes instead of {shard.bytes:,}"
            with path.open("rb") as file:
                same = hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256
            return "" if same else f"{path}: its bytes are not those that were written"
        except OSError as error:
            return f"{path}: cannot be read: {error.strerror or error}"

    with ThreadPoolExecutor(READERS) as pool:
        yield from pool.map(damage, shards)


class Shards:
    """The shards of a cache, mapped into memory: what is taken from them is read then, and no sooner.

    Attributes:
        encoded: names of the arrays that the encoding gave.
    """

    def __init__(self, folder: Path, index: Index):
        try:
            files = [safe_open(folder / shard.file, "numpy") for shard in index.shards]
            names = [set(file.keys()) for file in files]
            self.encoded = sorted(names[0] - set(KEPT))
            self._arrays = [{name: file.get_slice(name) for name in names[0]} for file in files]
            self._ends = np.cumsum([array["key"].get_shape()[0] for array in self._arrays])
        except (OSError, SafetensorError, IndexError, KeyError) as error:
            raise UserError(f"{folder}: its shards are not those of {INDEX}; remove it and prepare it again") from error
        if self._ends[-1] != index.size * index.views:
            raise UserError(f"{folder}: its shards are not those of {INDEX}; remove it and prepare it again")
        self._shape = index.views, index.size

    def take(self, name: str, rows: Int[np.ndarray, " b"]) -> Shaped[np.ndarray, "b ..."]:
        """The given positions of an array."""
        shards = np.searchsorted(self._ends, rows, side="right")
        places = rows - np.concatenate([[0], self._ends])[shards]
        found = [self._arrays[s][name][int(p) : int(p) + 1] for s, p in zip(shards, places, strict=True)]
        return np.concatenate(found)

    def text(self, row: int) -> tuple[str, list[str]]:
        """The id and the captions of a position of the first view."""
        shard = int(np.searchsorted(self._ends, row, side="right"))
        place = row - (int(self._ends[shard - 1]) if shard else 0)
        begin, end = self._arrays[shard]["text_ends"][place : place + 2]
        name, captions = json.loads(self._arrays[shard]["texts"][int(begin) : int(end)].tobytes())
        return name, captions

    def all_keys(self) -> Int[np.ndarray, "views size"]:
        return np.concatenate([arrays["key"][:] for arrays in self._arrays]).reshape(self._shape)


def _rows_by_view(keys: Int[np.ndarray, "views size"]) -> Integer[np.ndarray, "views size"]:
    """At which position each view has the example that is at each position of the first one."""
    size = keys.shape[1]
    rows = np.empty(keys.shape, np.uint32 if keys.size < 2**32 else np.int64)
    first = np.argsort(keys[0])
    for view, row in enumerate(keys):
        rows[view, first] = view * size + np.argsort(row)
    return rows
