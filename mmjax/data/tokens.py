"""Cache of visual tokens: its key, and reading it as a source.

See mmjax/data/shard_cache.py. Position p is example p % size of view p // size; a view is one epoch of training, with
its order, crops and flips, or the evaluation. Arrays of a shard:

    codes, ...  [p, *grid]    encoded arrays: integers of the smallest unsigned type, or floats
    key         int64 [p]     identifies the example
    mask        bool [p]      False: the image could not be read, its codes are 0
    texts       uint8 ragged  JSON of [id, captions], for the first view only
"""

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int, Integer, Shaped

from mmjax.config import Config, to_dict
from mmjax.data.shard_arrays import ENDS, ArrayReader
from mmjax.data.shard_cache import CacheKind, gaps, open_cache, params_digest
from mmjax.data.source import SETTINGS, Examples, ReadSpec, Source, epoch_order, find_source
from mmjax.types import Feature, Params, UserError

KIND = CacheKind("visual tokens", "mmjax prepare", "--config.tokens.cache=DIR")
OTHER_ARRAYS = ("key", "mask", "texts", f"texts{ENDS}")  # reserved names

Split = Literal["train", "evaluation"]


def token_cache_key(
    params: Params, tokenizer: Config, config: Config, split: Split, reference: Params | None = None
) -> dict[str, Any]:
    """The cache key of a split: plain data that determines its tokens.

    It omits the location and shuffling of the dataset and the text tokenizer. Crops and flips are those of seed 0, so
    that runs of different seeds share a cache; only generated images depend on the seed.

    Args:
        params: of the visual tokenizer, on the host or on this process's devices.
        tokenizer: its config.
        config: config of the model that is trained on the tokens.
        reference: parameters of the reference tokenizer, if any.
    """
    data, source, training = to_dict(config.data), find_source(config.data), split == "train"
    unused = {"root", "shuffle_buffer", "max_corrupt_fraction", "weight"}
    unused |= set(SETTINGS) - set(source.settings)
    unused |= {"evaluation_split", "evaluation_examples"} if training else {"train_split", "flip"}
    unused |= {"train_split", "evaluation_split", "resize", "flip"} if source.drawn else set()
    unused |= {"frame_rate"} if data["frames"] == 1 else set()
    reference_key = {}
    reference_config = config.component("reference_tokenizer")
    if reference_config is not None:
        assert reference is not None
        field = getattr(config.model, "reference", "image")
        encoder = _encoder(reference_config, reference)
        reference_key = {"reference": {"field": field, "size": reference_config.data.size, **encoder}}
    return {
        "split": split,
        "data": {name: value for name, value in data.items() if name not in unused},
        **({"seed": config.seed % 2**32} if source.drawn else {}),
        **({"tokens": {"num_augmentations": config.tokens.num_augmentations}} if training else {}),
        "tokenizer": _encoder(tokenizer, params),
        **reference_key,
    }


def _encoder(tokenizer: Config, params: Params) -> dict[str, Any]:
    return {"model": to_dict(tokenizer.model), "params": params_digest(params)}


def open_tokens(folder: Path, key: Mapping[str, Any]) -> Source:
    """Opens cached tokens as a source, with "codes" int32 [b, *grid] and other encoded arrays instead of "image".

    Epochs cycle through the views of each example. All shards are checked first.

    Args:
        folder: of one split.
        key: see token_cache_key.

    Raises:
        UserError: where the cache is missing, incomplete, of another key, or corrupt.
    """
    cache = open_cache(folder, KIND, key)
    size, views = int(cache.info["size"]), int(cache.info["num_augmentations"])
    if gaps(cache, size * views) or sum(shard.size for shard in cache.shards) != size * views:
        raise UserError(f"{folder}: its shards are not those of index.json; remove it and run {KIND.command}")
    reader = ArrayReader(cache)
    encoded = [name for name in reader.names if name not in OTHER_ARRAYS]
    keys = reader.all("key").reshape(views, size)
    rows_of = _rows_by_view(keys)

    def text(row: int) -> tuple[str, list[str]]:
        name, captions = json.loads(reader.take_ragged("texts", row).tobytes())
        return name, captions

    def all_captions() -> Iterator[str]:
        return (caption for row in range(size) for caption in text(row)[1])

    def read(spec: ReadSpec) -> Iterator[Examples]:
        order = functools.lru_cache(maxsize=2)(functools.partial(epoch_order, spec, size))
        for positions in spec.positions():
            epochs, places = np.divmod(positions, size)
            examples = np.array([order(int(e))[p] for e, p in zip(epochs, places, strict=True)], np.int64)
            view = (epochs + examples + spec.seed) % views if spec.training else np.zeros_like(examples)
            rows = rows_of[view, examples].astype(np.int64)
            ids, captions = zip(*map(text, examples.tolist()), strict=True)
            codes = {name: _widen(reader.take(name, rows)) for name in encoded}
            problem = [f"{i} could not be read when the tokens were made" for i in ids]
            fields = {"epoch": epochs, "id": list(ids), "captions": list(captions), "problem": problem}
            yield {**codes, "mask": reader.take("mask", rows), "key": keys[0, examples], **fields}

    features = {name: Feature("codes" if name == "codes" else "text") for name in cache.info["features"]}
    return Source(cache.info["source"], size, features, all_captions, read)


def _widen(values: Shaped[np.ndarray, "b ..."]) -> Shaped[np.ndarray, "b ..."]:
    """Integers as int32; floats unchanged."""
    return values.astype(np.int32) if np.issubdtype(values.dtype, np.integer) else values


def _rows_by_view(keys: Int[np.ndarray, "views size"]) -> Integer[np.ndarray, "views size"]:
    """Positions, in each view, of the examples of the first view in its order."""
    size = keys.shape[1]
    rows = np.empty(keys.shape, np.uint32 if keys.size < 2**32 else np.int64)
    first = np.argsort(keys[0])
    for view, row in enumerate(keys):
        rows[view, first] = view * size + np.argsort(row)
    return rows
