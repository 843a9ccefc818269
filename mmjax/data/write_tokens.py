"""Writes caches of visual tokens with resumption."""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from mmjax.config import Config
from mmjax.data import shard_cache
from mmjax.data.pipeline import evaluation_size, make_read_spec, report_corrupt
from mmjax.data.prefetch import prefetch
from mmjax.data.shard_arrays import ArrayReader, ragged, write_arrays
from mmjax.data.source import ReadSpec, Source
from mmjax.data.tokens import KIND, OTHER_ARRAYS, Split
from mmjax.progress import progress_bar
from mmjax.types import UserError

POSITIONS = 4096  # per shard, approximately

# (images float32 [b, y, x, c] or clips [b, f, y, x, c] of each field) -> named arrays.
Encode = Callable[..., Mapping[str, Shaped[np.ndarray, "b *grid"]]]


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
    """Encodes the missing or corrupt shards of a split, tokens.num_augmentations times for training.

    Args:
        folder: of this split; created if missing.
        key: see token_cache_key.
        source: the examples of the split.
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
