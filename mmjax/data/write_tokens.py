"""Encoding a data set once: writing a cache of visual tokens, resuming where it was interrupted."""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from tqdm import tqdm

from mmjax.config import Config
from mmjax.data.pipeline import evaluation_size, in_background, make_reading, report_rejected
from mmjax.data.shard_cache import ArrayReader, finish, gaps, ragged, write_arrays, write_cache
from mmjax.data.source import Reading, Rows, Source
from mmjax.data.tokens import KIND, OTHER_ARRAYS, Split
from mmjax.types import UserError

POSITIONS = 4096  # of a shard, about

Encode = Callable[[Float[np.ndarray, "b *pixels c"]], Mapping[str, Shaped[np.ndarray, "b *grid"]]]


def write_tokens(
    folder: Path,
    key: Mapping[str, Any],
    source: Source,
    config: Config,
    split: Split,
    encode: Encode,
    batch: int = 64,
    positions: int = POSITIONS,
) -> None:
    """Encodes a split into a cache, tokens.num_augmentations times for training; only what is missing or corrupt.

    Args:
        folder: of this split alone; made where it is missing.
        key: what the tokens follow from; see token_cache_key.
        source: the examples of the split.
        config: the config: its data, and tokens.num_augmentations.
        encode: images float32 [b, y, x, c] or clips [b, f, y, x, c] to named arrays, "codes" among them: integers from
            0 up or, in those not called codes, floats; b is always `batch`.
        positions: how many of them go into a shard, rounded down to whole batches.

    Raises:
        UserError: where the folder holds tokens of another key or something else, cannot be written, or where the
            data set changes or ends while it is read.
    """
    training = split == "train"
    size, views = (source.size, config.tokens.num_augmentations) if training else (evaluation_size(source, config), 1)
    provides = ["codes", *(name for name in source.provides if name in ("text", "scene"))]
    info = {"source": source.name, "provides": provides, "size": size, "num_augmentations": views}
    with write_cache(folder, KIND, key, info) as cache:
        missing = gaps(cache, total := size * views)
        bar = tqdm(None, f"encoding {split}", total, unit="image", leave=False, delay=2, dynamic_ncols=True)
        with bar:
            bar.update(total - sum(stop - start for start, stop in missing))
            for start, stop in missing:
                reading = make_reading(config.data, start, stop, batch, 0, batch, training, 0)
                for arrays in _shards(source, reading, encode, batch, positions, size - start, bar.update):
                    count = len(arrays["mask"])
                    write_arrays(cache, start, count, arrays)
                    start += count
                if start < stop:
                    raise UserError(
                        f"{folder}: the data set ended after {start:,} of {total:,} images; is it complete?"
                    )
        if not cache.complete:
            keys = np.sort(ArrayReader(cache).all("key").reshape(views, size), axis=1)
            if np.any(keys != keys[0]) or np.any(keys[0, 1:] == keys[0, :-1]):
                raise UserError(
                    f"{folder}: the data set changed while it was encoded; remove the folder and prepare it again"
                )
            finish(cache)


def _shards(
    source: Source,
    reading: Reading,
    encode: Encode,
    batch: int,
    positions: int,
    first_view: int,
    done: Callable[[int], Any],
) -> Iterator[dict[str, np.ndarray]]:
    """The arrays of each shard; so many rows from the first on are of the first view."""
    with contextlib.closing(in_background(lambda: source.read(reading))) as parts:  # type: ignore[type-var]
        while True:
            encoded = []
            for part in itertools.islice(parts, max(positions // batch, 1)):
                report_rejected(source, part)
                encoded.append(_encoded(part, encode, batch))
                done(len(part["key"]))
            if not encoded:
                return
            arrays = {name: np.concatenate([part[name] for part in encoded]) for name in encoded[0] if name != "texts"}
            for name in arrays.keys() - set(OTHER_ARRAYS):
                if np.issubdtype(arrays[name].dtype, np.integer):
                    arrays[name] = arrays[name].astype(np.min_scalar_type(arrays[name].max()))
            texts = [text for part in encoded for text in part["texts"]]
            yield {**arrays, **ragged("texts", texts[: max(first_view, 0)])}
            first_view -= len(texts)


def _encoded(part: Rows, encode: Encode, batch: int) -> dict[str, Any]:
    """What a shard keeps of some rows; `texts` is a list of bytes."""
    image, mask = part["image"], part["mask"]
    rows = len(image)
    if rows < batch:  # compiled for one size
        image = np.concatenate([image, np.repeat(image[-1:], batch - rows, axis=0)])
    kept = {"key": np.asarray(part["key"], np.int64), "mask": mask}
    for name, values in encode(image).items():
        array = np.array(values)[:rows]
        is_float = np.issubdtype(array.dtype, np.floating) and not name.endswith("codes")
        is_index = np.issubdtype(array.dtype, np.integer) and array.min(initial=0) >= 0
        if name in OTHER_ARRAYS or array.shape[:1] != (rows,) or not (is_float or is_index):
            raise ValueError(
                f"encode: {name} must be integers from 0 up, or floats and not codes, [{batch}, *grid], and not be "
                f"named one of {OTHER_ARRAYS}"
            )
        array[~mask] = 0
        kept[name] = array
    return {**kept, "texts": [json.dumps(pair).encode() for pair in zip(part["id"], part["captions"], strict=True)]}
