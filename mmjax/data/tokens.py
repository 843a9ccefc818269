"""Cache of visual tokens: its key, writing it with resumption, and reading it as a source.

See mmjax/data/shard_cache.py. Position p is example p % size of view p // size; a view is one epoch of training, with
its order, crops and flips, or the evaluation. Arrays of a shard:

    codes, ...  [p, *grid]    encoded arrays: integers of the smallest unsigned type, or floats
    key         int64 [p]     identifies the example
    mask        bool [p]      False: the image could not be read, its codes are 0
    texts       uint8 ragged  JSON of [id, captions], for the first view only
"""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int, Integer, Shaped

from mmjax.config import Config, to_dict
from mmjax.data import shard_cache
from mmjax.data.pipeline import evaluation_size, make_read_spec, prefetch, report_corrupt
from mmjax.data.random_access import ordered
from mmjax.data.shard_cache import ENDS, ArrayReader, ragged, write_arrays
from mmjax.data.source import SETTINGS, Examples, ReadSpec, Source, digest_of, find_source
from mmjax.files import params_digest
from mmjax.progress import progress_bar
from mmjax.types import Feature, Params, UserError

KIND = shard_cache.CacheKind("visual tokens", "mmjax prepare", "--config.tokens.cache=DIR")
OTHER_ARRAYS = ("key", "mask", "texts", f"texts{ENDS}")  # reserved names
POSITIONS = 4096  # per shard, approximately

Split = Literal["train", "evaluation"]

# (images float32 [b, y, x, c] or clips [b, f, y, x, c] of each field) -> named arrays.
Encode = Callable[..., Mapping[str, Shaped[np.ndarray, "b *grid"]]]


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
    if (reference_config := config.component("reference_tokenizer")) is not None:
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


def write_tokens(
    folder: Path,
    key: Mapping[str, Any],
    source: Source,
    config: Config,
    split: Split,
    encode: Encode,
    batch: int = 64,
    positions: int = POSITIONS,
    fields: Sequence[str] = ("image",),
) -> None:
    """Encodes the missing or corrupt shards of a split into its folder, tokens.num_augmentations times for training.

    Args:
        key: see token_cache_key.
        config: for its data and tokens.num_augmentations.
        encode: (images of `fields`, batches of exactly `batch`) -> named arrays of integers from 0 up, including
            "codes"; those not called codes may be floats.
        positions: per shard, rounded down to whole batches.
        fields: image fields to encode.

    Raises:
        UserError: where the folder holds tokens of another key or other files, is not writable, or the dataset changes
            or ends early.
    """
    training = split == "train"
    size, views = (source.size, config.tokens.num_augmentations) if training else (evaluation_size(source, config), 1)
    features = ["codes", *(name for name in source.features if name in ("text", "scene"))]
    info = {"source": source.name, "features": features, "size": size, "num_augmentations": views}
    total = size * views
    with shard_cache.write_cache(folder, KIND, key, info) as cache:
        missing = shard_cache.gaps(cache, total)
        done = total - sum(stop - start for start, stop in missing)
        with progress_bar(None, f"encoding {split}", total, initial=done, unit="image") as bar:
            for start, stop in missing:
                spec = make_read_spec(config.data, start, stop, batch, 0, batch, training, 0)
                encoded = _encoded(source, spec, encode, fields, batch, bar.update)
                while rows := list(itertools.islice(encoded, max(positions // batch, 1))):
                    count = sum(len(part["key"]) for part in rows)
                    write_arrays(cache, start, count, _arrays(rows, min(max(size - start, 0), count)))
                    start += count
                if start < stop:
                    raise UserError(
                        f"{folder}: the data set ended after {start:,} of {total:,} images; is it complete?"
                    )
        if not cache.complete:
            keys = np.sort(ArrayReader(cache).all("key").reshape(views, size), axis=1)
            if np.any(keys != keys[0]) or np.any(keys[0, 1:] == keys[0, :-1]):
                raise UserError(f"{folder}: the data set changed while it was encoded; remove the folder and try again")
            shard_cache.finish(cache)


def _encoded(
    source: Source, spec: ReadSpec, encode: Encode, fields: Sequence[str], batch: int, done: Callable[[int], Any]
) -> Iterator[dict[str, Any]]:
    """Yields the arrays of each encoded batch; `texts` is a list of bytes."""
    with contextlib.closing(prefetch(lambda: source.read(spec))) as parts:  # type: ignore[type-var]
        for part in parts:
            report_corrupt(source, part)
            images, mask, rows = [part[name] for name in fields], part["mask"], len(part["mask"])
            if rows < batch:  # compiled for one size
                images = [np.concatenate([image, np.repeat(image[-1:], batch - rows, axis=0)]) for image in images]
            arrays = {name: np.array(values)[:rows] for name, values in encode(*images).items()}
            for name, array in arrays.items():
                is_index = np.issubdtype(array.dtype, np.integer) and array.min(initial=0) >= 0
                is_float = np.issubdtype(array.dtype, np.floating) and not name.endswith("codes")
                if name in OTHER_ARRAYS or array.shape[:1] != (rows,) or not (is_index or is_float):
                    raise ValueError(
                        f"encode: {name} must be [{batch}, *grid], integers from 0 up, or floats if no codes"
                    )
                array[~mask] = 0
            texts = [json.dumps(pair).encode() for pair in zip(part["id"], part["captions"], strict=True)]
            yield {"key": np.asarray(part["key"], np.int64), "mask": mask, "texts": texts, **arrays}
            done(rows)


def _arrays(parts: list[dict[str, Any]], first_view: int) -> dict[str, np.ndarray]:
    """The arrays of a shard; its first `first_view` rows are of the first view."""
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0] if name != "texts"}
    for name in arrays.keys() - set(OTHER_ARRAYS):
        if np.issubdtype(arrays[name].dtype, np.integer):
            arrays[name] = arrays[name].astype(np.min_scalar_type(arrays[name].max()))
    return arrays | ragged("texts", [text for part in parts for text in part["texts"]][:first_view])


def open_tokens(folder: Path, key: Mapping[str, Any]) -> Source:
    """Opens the cached tokens of a split as a source: "codes" int32 [b, *grid], other encoded arrays, and no "image".

    Epochs cycle through the views of each example. All shards are checked first.

    Raises:
        UserError: where the cache is missing, incomplete, of another key, or corrupt.
    """
    cache = shard_cache.open_cache(folder, KIND, key)
    size, views = int(cache.info["size"]), int(cache.info["num_augmentations"])
    if shard_cache.gaps(cache, size * views) or sum(shard.size for shard in cache.shards) != size * views:
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
        for epochs, indices in ordered(spec, size):
            examples = np.array(indices, np.int64)
            view = (epochs + examples + spec.seed) % views if spec.training else np.zeros_like(examples)
            rows = rows_of[view, examples].astype(np.int64)
            ids, captions = zip(*map(text, indices), strict=True)
            codes = {name: reader.take(name, rows) for name in encoded}
            codes |= {name: a.astype(np.int32) for name, a in codes.items() if np.issubdtype(a.dtype, np.integer)}
            problem = [f"{i} could not be read when the tokens were made" for i in ids]
            fields = {"epoch": epochs, "id": list(ids), "captions": list(captions), "problem": problem}
            yield {**codes, "mask": reader.take("mask", rows), "key": keys[0, examples], **fields}

    features = {name: Feature("codes" if name == "codes" else "text") for name in cache.info["features"]}
    digest = digest_of(keys, reader.all("texts"))
    return Source(cache.info["source"], size, features, all_captions, read, digest=digest)


def _rows_by_view(keys: Int[np.ndarray, "views size"]) -> Integer[np.ndarray, "views size"]:
    """Positions, in each view, of the examples of the first view in its order."""
    size = keys.shape[1]
    rows = np.empty(keys.shape, np.uint32 if keys.size < 2**32 else np.int64)
    first = np.argsort(keys[0])
    for view, row in enumerate(keys):
        rows[view, first] = view * size + np.argsort(row)
    return rows
