"""Writes packed datasets with resumption; see mmjax/data/packed.py."""

import contextlib
import dataclasses
import functools
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmjax.data.captions import pack
from mmjax.data.decoding import cores
from mmjax.data.folder_dataset import in_parallel
from mmjax.data.packed import CAPTIONS, check_array_record, folder_of, kind_of, num_examples, rejected
from mmjax.data.raw import RawSplit, Rejected
from mmjax.data.recompress import QUALITY, make_record
from mmjax.data.shard_arrays import write_arrays
from mmjax.data.shard_cache import Cache, finish, gaps, write_cache, write_shard
from mmjax.data.tfds_layout import shard_name, write_info
from mmjax.files import write_file
from mmjax.progress import progress_bar
from mmjax.types import UserError

REJECTED, OF_TFDS = "rejected.jsonl", ("dataset_info.json", "features.json")
SHARD_SIZE = 1024  # images, 160 MB of COCO's
MAX_NAMED = 10  # rejected images in the log

logger = logging.getLogger(__name__)


def write_packed(
    root: str | Path, splits: Mapping[str, RawSplit], resize: int = 0, jobs: int = 0, shard_size: int = SHARD_SIZE
) -> Cache:
    """Writes the missing or corrupt shards of splits into ROOT/mmjax_coco/1.0.0.

    Unreadable images are left out and listed in rejected.jsonl.

    Args:
        splits: raw images by name of the split.
        resize: larger short sides are resized to this, as JPEG; other images are copied; 0: copies all.
        jobs: threads that read, check and resize images; 0: one per core.
        shard_size: images per shard.

    Raises:
        UserError: where the folder holds another dataset or other files, is locked or not writable, or no image of a
            split can be read.
    """
    check_array_record(root)
    for name in splits:
        if not re.fullmatch(r"\w+", name, re.ASCII):
            raise UserError(f"split {name}: mmjax prepare --to takes whole splits, named by letters, digits and _")
    folder = folder_of(root)
    made_from = {name: {"images": raw.size, **raw.made_from} for name, raw in splits.items()}
    key = {"resize": resize, "quality": QUALITY if resize else 0, "shard_size": shard_size, "splits": made_from}
    info = {"left_out": {name: [dataclasses.asdict(row) for row in raw.left_out] for name, raw in splits.items()}}
    with write_cache(folder, kind_of(root), key, info) as cache:
        if not cache.complete:
            for file in OF_TFDS:  # so that TFDS does not open an incomplete one
                (folder / file).unlink(missing_ok=True)
            with warnings.catch_warnings():  # here, as it is not thread-safe
                warnings.simplefilter("ignore")
                for name, raw in splits.items():
                    _write_images(cache, name, raw, jobs or cores())
            for name, raw in splits.items():
                _write_captions(cache, name, raw)
        _write_for_tfds(cache, list(splits))
        finish(cache)
    for name in splits:
        _report(cache, name)
    return cache


def _write_images(cache: Cache, split: str, raw: RawSplit, jobs: int) -> None:
    shard_size, resize, missing = cache.key["shard_size"], cache.key["resize"], gaps(cache, raw.size, split)
    done = raw.size - sum(stop - start for start, stop in missing)
    with progress_bar(None, f"packing {split}", raw.size, initial=done, unit="image") as bar:
        for first, last in missing:
            calls = (functools.partial(make_record, image, resize) for image in raw.read(first, last))
            with contextlib.closing(in_parallel(calls, jobs)) as results:
                for start in range(first, last, shard_size):
                    size = min(shard_size, last - start)
                    file = shard_name(split, start // shard_size, -(-raw.size // shard_size))
                    write = functools.partial(_write_records, results, size, bar.update)
                    write_shard(cache, file, start, size, write, split)


def _write_records(
    results: Iterator[bytes | Rejected], size: int, done: Callable[[int], Any], path: Path
) -> dict[str, Any]:
    """Writes the next `size` results into an ArrayRecord file; returns the shard's info."""
    from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

    left_out, examples = [], 0
    try:
        # One record per group for random access; JPEG does not compress.
        writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        try:
            for _ in range(size):
                if isinstance(result := next(results, None), Rejected):
                    left_out.append(dataclasses.asdict(result))
                elif result is None:
                    raise UserError(f"{path.parent}: the data set ended before its images; is it complete?")
                else:
                    writer.write(result)
                    examples += 1
                done(1)
        finally:
            writer.close()  # raises the errors of writing
        reader = ArrayRecordReader(str(path))
        if (count := reader.num_records()) != examples:
            raise OSError(f"holds {count:,} examples instead of {examples:,}")
        reader.close()
    except RuntimeError as error:  # what ArrayRecord raises
        raise OSError(str(error).split(";")[0]) from error
    return {"examples": examples, "rejected": left_out}


def _write_captions(cache: Cache, split: str, raw: RawSplit) -> None:
    examples, left_out = num_examples(cache, split), rejected(cache, split)
    if not examples:
        first = left_out[0]
        raise UserError(f"{split}: none of {raw.size:,} images can be read; {first.file}: {first.problem}")
    ids = {row.id for row in left_out}
    captions = pack((key, texts) for key, texts in raw.captions() if key not in ids)
    if len(captions) != examples or len(set(captions.keys.tolist())) != examples:
        raise UserError(f"{cache.folder}: the images of {split} changed meanwhile, or share ids; remove it")
    part = split + CAPTIONS
    cache.shards = [shard for shard in cache.shards if shard.part != part]
    write_arrays(cache, 0, examples, vars(captions), part)


def _write_for_tfds(cache: Cache, splits: list[str]) -> None:
    rows = [{"split": split, **dataclasses.asdict(row)} for split in splits for row in rejected(cache, split)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_file(cache.folder / REJECTED, lines.encode("utf-8", "replace"))
    sizes = {split: [(shard.info["examples"], shard.bytes) for shard in cache.shards_of(split)] for split in splits}
    write_info(cache.folder, sizes)


def _report(cache: Cache, split: str) -> None:
    if left_out := rejected(cache, split):
        named = ", ".join(f"{row.file} ({row.problem})" for row in left_out[:MAX_NAMED])
        more = ", ..." if len(left_out) > MAX_NAMED else ""
        counts = f"{num_examples(cache, split):,} kept, {len(left_out):,} rejected"
        logger.warning("%s: %s: %s%s; all in %s", split, counts, named, more, cache.folder / REJECTED)
