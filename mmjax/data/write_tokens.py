"""Encoding a data set once: writing a cache of visual tokens, shard by shard, going on where it was interrupted."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, Shaped
from safetensors import numpy as safetensors

from mmjax.config import Config
from mmjax.data.pipeline import evaluation_size, make_read_spec, report_corrupt
from mmjax.data.prefetch import prefetch
from mmjax.data.source import Examples, Source
from mmjax.data.tokens import INDEX, KEPT, UNFINISHED, Index, Shard, Shards, Split, check_address, damages, read_index
from mmjax.files import write_file, write_json
from mmjax.progress import progress_bar
from mmjax.types import UserError

POSITIONS = 4096  # of a shard, about
SUFFIX = ".safetensors"

# Of images float32 [b, y, x, c] or clips [b, f, y, x, c], one argument a field.
Encode = Callable[..., Mapping[str, Integer[np.ndarray, "b *grid"]]]


def write_tokens(
    folder: Path,
    address: Mapping[str, Any],
    source: Source,
    config: Config,
    split: Split,
    encode: Encode,
    batch: int = 64,
    positions: int = POSITIONS,
    fields: Sequence[str] = ("image",),
) -> None:
    """Encodes a split into a folder, tokens.num_augmentations times for training, unless that was done before.

    Shards that are whole are kept, whatever ended the last attempt, and those behind the first damaged one are encoded
    again.

    Args:
        folder: of this split alone; made where it is missing.
        address: what the tokens follow from; see token_address.
        source: the examples of the split.
        config: the config: its data, and tokens.num_augmentations.
        encode: the images of `fields` to named arrays of integers from 0 up, "codes" among them; b is always `batch`.
        positions: how many of them go into a shard, rounded down to whole batches.
        fields: of the source's examples, whose images are encoded.

    Raises:
        UserError: where the folder holds tokens of another address or something else, cannot be written, or where the
            data set changes or ends while it is read.
    """
    training = split == "train"
    size, views = (source.size, config.tokens.num_augmentations) if training else (evaluation_size(source, config), 1)
    index = _begin(folder, address, source, size, views)
    done, total = sum(shard.positions for shard in index.shards), size * views
    if done == total and (folder / INDEX).exists():
        return
    write_json(folder / UNFINISHED, dataclasses.asdict(index))
    (folder / INDEX).unlink(missing_ok=True)
    clear(folder, index.shards)
    spec = make_read_spec(config.data, done, total, batch, 0, batch, training, 0)
    bar = progress_bar(None, f"encoding {split}", total, initial=done, unit="image")
    with bar, contextlib.closing(prefetch(lambda: source.read(spec))) as parts:  # type: ignore[type-var]
        while done < total:
            encoded = []
            for part in itertools.islice(parts, max(positions // batch, 1)):
                report_corrupt(source, part)
                encoded.append(_encoded(part, encode, batch, fields))
                bar.update(len(part["id"]))
            if not encoded:
                raise UserError(f"{folder}: the data set ended after {done:,} of {total:,} images; is it complete?")
            count = sum(len(part["key"]) for part in encoded)
            content = safetensors.save(_arrays(encoded, min(max(size - done, 0), count)))
            shard = Shard(f"{done:012d}{SUFFIX}", count, len(content), hashlib.sha256(content).hexdigest())
            write_file(folder / shard.file, content)
            index.shards.append(shard)
            write_json(folder / UNFINISHED, dataclasses.asdict(index))
            done += count
    keys = np.sort(Shards(folder, index).all_keys(), axis=1)
    if np.any(keys != keys[0]) or np.any(keys[0, 1:] == keys[0, :-1]):
        raise UserError(f"{folder}: the data set changed while it was encoded; remove the folder and prepare it again")
    write_json(folder / INDEX, dataclasses.asdict(index))
    (folder / UNFINISHED).unlink()


def _begin(folder: Path, address: Mapping[str, Any], source: Source, size: int, views: int) -> Index:
    """The index so far: the shards that are whole, up to the first that is not."""
    found = next((folder / name for name in (INDEX, UNFINISHED) if (folder / name).exists()), None)
    if found is None:
        if any(not path.name.startswith(".") for path in folder.glob("*")):
            raise UserError(f"{folder}: holds no cached tokens, but something else; take --config.tokens.cache=DIR")
        first = [name for name in source.features if name in ("text", "scene")]
        return Index(json.loads(json.dumps(address)), source.name, ["codes", *first], size, views, [])
    index = read_index(found)
    check_address(folder, index.address, address)
    if (index.source, index.size, index.views) != (source.name, size, views):
        raise UserError(
            f"{folder}: was made from {index.size:,} examples of {index.source}, and {source.name} now has {size:,}; "
            "remove the folder, or take another with --config.tokens.cache=DIR"
        )
    whole = itertools.takewhile(lambda pair: not pair[1], zip(index.shards, damages(folder, index.shards), strict=True))
    return dataclasses.replace(index, shards=[shard for shard, _ in whole])


def clear(folder: Path, shards: Iterable[Shard]) -> None:
    """Removes what an attempt that was killed left behind: files half-written, and shards that no index names."""
    kept = {shard.file for shard in shards}
    for path in (*folder.glob(f"*{SUFFIX}"), *folder.glob(".*.tmp")):
        if path.name not in kept:
            path.unlink()


def _encoded(part: Examples, encode: Encode, batch: int, fields: Sequence[str]) -> dict[str, Any]:
    """What a shard keeps of some rows; `texts` is a list here."""
    images, mask = [part[name] for name in fields], part["mask"]
    rows = len(mask)
    if rows < batch:  # compiled for one size
        images = [np.concatenate([image, np.repeat(image[-1:], batch - rows, axis=0)]) for image in images]
    kept = {"key": np.asarray(part["key"], np.int64), "mask": mask}
    for name, values in encode(*images).items():
        codes = np.array(values)[:rows]
        if name in KEPT or not np.issubdtype(codes.dtype, np.integer) or codes.shape[:1] != (rows,) or codes.min() < 0:
            raise ValueError(f"encode: {name} must be integers from 0 up, [{batch}, *grid], not named one of {KEPT}")
        codes[~mask] = 0
        kept[name] = codes
    texts = [json.dumps(pair).encode() for pair in zip(part["id"], part["captions"], strict=True)]
    return {**kept, "texts": texts}


def _arrays(encoded: list[dict[str, Any]], first_view: int) -> dict[str, Shaped[np.ndarray, "..."]]:
    """The arrays of a shard of which so many positions are of the first view."""
    arrays = {name: np.concatenate([part[name] for part in encoded]) for name in encoded[0] if name != "texts"}
    for name in arrays.keys() - set(KEPT):
        arrays[name] = arrays[name].astype(np.min_scalar_type(arrays[name].max()))
    texts = [text for part in encoded for text in part["texts"]][:first_view]
    ends = np.cumsum([0, *map(len, texts)]).astype(np.int64)
    return {**arrays, "texts": np.array(bytearray(b"".join(texts)), np.uint8), "text_ends": ends}
