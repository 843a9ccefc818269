"""Packed dataset of `mmjax prepare --to=DIR`: images in ArrayRecord shards with random access.

DIR/mmjax_coco/1.0.0/ is a cache (see mmjax/data/shard_cache.py) that TFDS can also open by name from DIR:

    mmjax_coco-SPLIT.array_record-00000-of-0000N   encoded images with their captions
    dataset_info.json, features.json               for TFDS, written last
    SPLIT.captions-000000000000.safetensors        keys and captions, memory-mapped
    index.json                                     key, and files with their checksums
    rejected.jsonl                                 images left out, with the reasons

Positions are those of the raw images; a shard lacks those that were rejected.
"""

import contextlib
import dataclasses
import errno
import functools
import importlib.util
import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from mmjax.config import DataConfig
from mmjax.data.captions import map_captions, pack
from mmjax.data.decoding import cores
from mmjax.data.folder_dataset import in_parallel
from mmjax.data.image import load_image
from mmjax.data.random_access import indexed_source
from mmjax.data.shard_cache import (
    INDEX,
    Cache,
    CacheKind,
    Shard,
    finish,
    gaps,
    open_cache,
    write_arrays,
    write_cache,
    write_shard,
)
from mmjax.data.source import RawImage, RawSplit, Rejected, Source, SourceSpec, captioned_images
from mmjax.data.tfds_layout import NAME, VERSION, protos, read_record, record, shard_name, write_info
from mmjax.files import remove, write_file
from mmjax.progress import progress_bar
from mmjax.types import UserError

CAPTIONS = ".captions"  # suffix of a split: the part of its captions
REJECTED, OF_TFDS = "rejected.jsonl", ("dataset_info.json", "features.json")
SHARD_SIZE = 1024  # images, 160 MB of COCO's
MAX_NAMED = 10  # rejected images in the log
QUALITY = 95  # of JPEG, without chroma subsampling
KINDS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP")  # that training can read; MPO is JPEG with further images

OF_A_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.EINVAL)

logger = logging.getLogger(__name__)


def folder_of(root: str | Path) -> Path:
    return Path(root) / NAME / VERSION


def kind_of(root: str | Path) -> CacheKind:
    return CacheKind("packed images", f"mmjax prepare --to={root}", "--to=DIR", _is_valid)


def _is_valid(shard: Shard) -> bool:
    """Whether the images of a shard are those that it holds and those that were left out."""
    if shard.part.endswith(CAPTIONS):
        return True
    examples, left_out = shard.info["examples"], [Rejected(**row) for row in shard.info["rejected"]]
    return type(examples) is int and examples >= 0 and examples + len(left_out) == shard.size


def _check_whole(cache: Cache, split: str) -> None:
    """Raises UserError where the shards of a complete data set are not all images of a split and their captions."""
    sizes = [shard.size for shard in cache.shards_of(split)]
    total, captions = cache.key["splits"][split]["images"], [s.size for s in cache.shards_of(split + CAPTIONS)]
    if gaps(cache, total, split) or sum(sizes) != total or captions != [num_examples(cache, split)]:
        path, command = cache.folder / INDEX, cache.kind.command
        raise UserError(f"{path}: names not all shards of {split}, or others; remove {path.parent} and run {command}")


def num_examples(cache: Cache, split: str) -> int:
    return sum(shard.info["examples"] for shard in cache.shards_of(split))


def rejected(cache: Cache, split: str) -> list[Rejected]:
    """The images that were left out of a split."""
    of_shards = (row for shard in cache.shards_of(split) for row in shard.info["rejected"])
    return [Rejected(**row) for row in (*cache.info["left_out"][split], *of_shards)]


def open_packed(config: DataConfig, training: bool, seed: int) -> Source:
    """Opens a packed dataset, with examples in the order of the raw images.

    Checks the size and the ends of each shard; records have checksums, and `mmjax prepare` checks all. data.root is the
    DIR of --to; splits are those of the config that was packed.

    Raises:
        UserError: where it is missing, incomplete, corrupt, or has no such split.
    """
    root, split = config.root, config.split(training)
    check_array_record(root)
    folder = folder_of(root)
    cache = open_cache(folder, kind_of(root))
    if split not in cache.key["splits"]:
        raise UserError(f"{folder}: has no split {split}; it has {', '.join(cache.key['splits'])}")
    _check_whole(cache, split)
    resize = cache.key["resize"]
    if resize and resize < config.resize:
        message = "%s: images were made smaller, to %d pixels, and data.resize is %d"
        logger.warning(message, folder, resize, config.resize)
    paths = [f"{folder / shard.file}[0:{shard.info['examples']}]" for shard in cache.shards_of(split)]
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    records = ArrayRecordDataSource(paths, {"max_parallelism": "0"})  # each call reads one; calls are concurrent
    (captions,) = (map_captions(folder / shard.file) for shard in cache.shards_of(split + CAPTIONS))
    return indexed_source(
        "coco_packed", captioned_images(config), captions, lambda index: read_record(records[index])["image"][0]
    )


def check_array_record(root: str | Path) -> None:
    """Raises UserError where ArrayRecord or its records are not supported."""
    if re.match(r"[a-z0-9]{2,}:/", str(root)):  # Path collapses the slashes
        raise UserError(f"{root}: packed data sets are read from a disk; copy it there, or stream coco_tfds")
    for module, package in (("array_record", "array_record"), ("tensorflow_datasets", "tensorflow-datasets")):
        if importlib.util.find_spec(module) is None:
            raise UserError(f"data.source: coco_packed needs {package}: pip install {package}")
    protos()


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
                remove(folder / file)
            with warnings.catch_warnings():  # here, as it is not thread-safe
                warnings.simplefilter("ignore")
                for name, raw in splits.items():
                    _write_images(cache, name, raw, jobs or cores())
            for name, raw in splits.items():
                _write_captions(cache, name, raw)
        for name in splits:
            _check_whole(cache, name)
        _write_for_tfds(cache, list(splits))
        finish(cache)
    for name in splits:
        if left_out := rejected(cache, name):
            named = ", ".join(f"{row.file} ({row.problem})" for row in left_out[:MAX_NAMED])
            more = ", ..." if len(left_out) > MAX_NAMED else ""
            counts = f"{num_examples(cache, name):,} kept, {len(left_out):,} rejected"
            logger.warning("%s: %s: %s%s; all in %s", name, counts, named, more, folder / REJECTED)
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


def make_record(raw: RawImage, resize: int) -> bytes | Rejected:
    """The record of an image resized by recompress, or why it is rejected; raises UserError for disk failures."""
    try:
        image = recompress(raw.content(), raw.name, resize)
    except UserError as error:
        return Rejected(raw.key, raw.name, str(error).removeprefix(f"{raw.name}: "))
    except OSError as error:
        if error.errno in OF_A_FILE:
            return Rejected(raw.key, raw.name, (error.strerror or "cannot be read").lower())
        # Of a disk, not of an image.
        raise UserError(f"{error.filename or raw.name}: cannot be read: {error.strerror or error}") from error
    return record(image, raw.name, raw.key, raw.captions)


def recompress(content: bytes, name: str, resize: int) -> bytes:
    """Resizes the short side of a larger image to `resize` pixels (Lanczos), as JPEG; others are unchanged.

    Args:
        content: of the file; always fully decoded as a check.
        resize: 0: any size.

    Raises:
        UserError: for a broken, too large or unsupported image.
    """
    image = load_image(name, resize or 1, content)
    with Image.open(io.BytesIO(content)) as stored:
        kind, short_side = stored.format, min(stored.size)
    if kind not in KINDS:
        raise UserError(f"{name}: is {kind}; JPEG, PNG, GIF, BMP and WebP can be read")
    if not resize or short_side <= resize:
        return content
    scale = resize / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    file = io.BytesIO()
    image.resize((width, height), Image.Resampling.LANCZOS).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()


def _write_records(
    results: Iterator[bytes | Rejected], size: int, done: Callable[[int], Any], path: Path
) -> dict[str, Any]:
    """Writes the next `size` results into an ArrayRecord file; returns the shard's info."""
    from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

    left_out, examples = [], 0
    try:
        # One record per group for random access; JPEG does not compress.
        with contextlib.closing(ArrayRecordWriter(str(path), "group_size:1,uncompressed")) as writer:
            for _ in range(size):
                if isinstance(result := next(results, None), Rejected):
                    left_out.append(dataclasses.asdict(result))
                elif result is None:
                    raise UserError(f"{path.parent}: the data set ended before its images; is it complete?")
                else:
                    writer.write(result)
                    examples += 1
                done(1)
        with contextlib.closing(ArrayRecordReader(str(path))) as reader:
            if (count := reader.num_records()) != examples:
                raise OSError(f"holds {count:,} examples instead of {examples:,}")
    except RuntimeError as error:  # what ArrayRecord raises, also as it is closed
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


SOURCE = SourceSpec(captioned_images, open_packed)
