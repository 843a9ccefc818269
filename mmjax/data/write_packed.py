"""Writing a prepared data set, shard by shard, going on where it was interrupted; see mmjax/data/packed.py."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mmjax.config import differences
from mmjax.data.captions import pack, write_captions
from mmjax.data.decoding import cores
from mmjax.data.packed import (
    FORMAT,
    INDEX,
    UNFINISHED,
    Index,
    Shard,
    Split,
    check_reader,
    ends,
    folder_of,
    preparation,
    read_index,
)
from mmjax.data.raw import Original, Originals, Rejected
from mmjax.data.recompress import QUALITY, converted
from mmjax.data.tfds_layout import shard_name, write_info
from mmjax.files import write_file, write_json
from mmjax.lock import locked
from mmjax.progress import progress_bar
from mmjax.types import UserError

LOCK, REJECTED, OF_TFDS = ".lock", "rejected.jsonl", ("dataset_info.json", "features.json")
SHARD_SIZE = 1024  # images, 160 MB of COCO's
NAMED = 10  # rejected images in the log

Convert = Callable[[Iterable[Original]], Iterator[bytes | Rejected]]

logger = logging.getLogger(__name__)


def write_prepared(
    root: str | Path, originals: Mapping[str, Originals], resize: int = 0, jobs: int = 0, shard_size: int = SHARD_SIZE
) -> Index:
    """Writes the splits of a data set into ROOT/mmjax_coco/1.0.0; of what is there and whole, nothing.

    Every byte of what is there is read and compared with its checksum first. Images that cannot be read are left
    out, listed in rejected.jsonl and named in the log.

    Args:
        originals: by the name of the split.
        resize: images whose short side is longer are brought to so many pixels, and written as JPEG; the others, and
            with 0 all, are kept byte for byte.
        jobs: threads that read, check and resize images; 0: one a core.
        shard_size: images in a shard.

    Raises:
        UserError: where the folder holds another preparation or something else, another process writes into it, it
            cannot be written, or no image of a split can be read.
    """
    check_reader(root)
    for name in originals:
        if not re.fullmatch(r"\w+", name, re.ASCII):
            raise UserError(f"split {name}: mmjax prepare --to takes whole splits, named by letters, digits and _")
    folder, jobs = folder_of(root), jobs or cores()
    with locked(folder / LOCK, f"{folder}: is being prepared"):
        index = _begin(folder, originals, resize, shard_size)
        _keep_whole(folder, index)
        if any(not split.captions or None in split.shards for split in index.splits.values()):
            _save(folder, index)
            for name in (INDEX, *OF_TFDS):  # neither mmjax nor TFDS opens what is not whole
                (folder / name).unlink(missing_ok=True)
            _clear(folder, index)
            # Threads that silence warnings for themselves would restore each other's state.
            with warnings.catch_warnings(), ThreadPoolExecutor(jobs) as pool:
                warnings.simplefilter("ignore")
                for name, of_split in originals.items():
                    _write_shards(folder, index, name, of_split, functools.partial(converted, pool, jobs, resize))
            for name, of_split in originals.items():
                _write_captions(folder, index, name, of_split)
        _finish(folder, index)
    for name, split in index.splits.items():
        _report(folder, name, split)
    return index


def _begin(folder: Path, originals: Mapping[str, Originals], resize: int, shard_size: int) -> Index:
    """The index as it was left, or a new one."""
    made_from = {name: {"originals": o.size, **o.made_from} for name, o in originals.items()}
    address = {"resize": resize, "quality": QUALITY if resize else 0, "shard_size": shard_size, "splits": made_from}
    found = next((folder / name for name in (UNFINISHED, INDEX) if (folder / name).exists()), None)
    broken = found is not None and not _is_json(found)
    if broken:
        logger.warning("%s: broken; all shards are written again", found)
    if found is None or broken:
        if not broken and any(not path.name.startswith(".") for path in folder.glob("*")):
            raise UserError(f"{folder}: holds no prepared data set, but something else; name another folder as --to")
        splits = {
            name: Split(o.size, [None] * -(-o.size // shard_size), "", list(o.left_out))
            for name, o in originals.items()
        }
        return Index(FORMAT, address, splits)
    index = read_index(found)
    address = json.loads(json.dumps(address))
    changed = [f"{name} was {was} and now is {now}" for name, was, now in differences(index.address, address)]
    if changed:
        raise UserError(
            f"{folder}: holds another preparation: {'; '.join(changed[:3])}; remove the folder, or name another as --to"
        )
    for name, o in originals.items():
        index.splits[name].left_out = list(o.left_out)
    return index


def _is_json(path: Path) -> bool:
    """Whether a file is whole; it may be cut off where the machine went down."""
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return False
    return True


def _keep_whole(folder: Path, index: Index) -> None:
    """Forgets the files whose bytes are not those that were written."""

    def whole(file: str, sha256: str) -> bool:
        try:
            with (folder / file).open("rb") as content:
                return hashlib.file_digest(content, "sha256").hexdigest() == sha256
        except FileNotFoundError:
            return False
        except OSError as error:
            raise UserError(f"{folder / file}: cannot be read: {error.strerror or error}") from error

    there = [shard for split in index.splits.values() for shard in split.shards if shard]
    with ThreadPoolExecutor(cores()) as pool:
        found = pool.map(lambda shard: whole(shard.file, shard.sha256), there)
        bar = progress_bar(found, "checking", len(there), unit="shard")
        damaged = [shard.file for shard, good in zip(there, bar, strict=True) if not good]
    for file in damaged:
        logger.warning("%s: damaged or missing; it is written again", folder / file)
    for name, split in index.splits.items():
        split.shards = [None if shard and shard.file in damaged else shard for shard in split.shards]
        if None in split.shards or not whole(f"{name}.captions", split.captions):
            split.captions = ""


def _save(folder: Path, index: Index) -> None:
    write_json(folder / UNFINISHED, dataclasses.asdict(index))


def _clear(folder: Path, index: Index) -> None:
    """Removes what an attempt that was killed left behind: files half-written, and shards that the index lacks."""
    kept = {shard.file for split in index.splits.values() for shard in split.shards if shard}
    for path in {*folder.glob("*.array_record-*"), *folder.glob(".*.tmp")}:
        if path.name not in kept:
            path.unlink()


def _write_shards(folder: Path, index: Index, name: str, originals: Originals, convert: Convert) -> None:
    split, size = index.splits[name], index.address["shard_size"]
    missing = [number for number, shard in enumerate(split.shards) if shard is None]
    done = originals.size - sum(min(size, originals.size - number * size) for number in missing)
    with progress_bar(None, f"preparing {name}", originals.size, initial=done, unit="image") as bar:
        for first, last in _runs(missing):
            start, stop = first * size, min((last + 1) * size, originals.size)
            results = convert(originals.read(start, stop))
            for number in range(first, last + 1):
                wanted = min(size, originals.size - number * size)
                path = folder / shard_name(name, number, len(split.shards))
                split.shards[number] = _write_shard(path, results, wanted, bar)
                _save(folder, index)


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first and the last of each run of consecutive numbers."""
    start = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            yield numbers[start], numbers[at - 1]
            start = at


def _write_shard(path: Path, results: Iterator[bytes | Rejected], wanted: int, bar: Any) -> Shard:
    """Writes the next so many results, whole or not at all."""
    from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    rejected, examples = [], 0
    try:
        # One record a group is what reading in any order needs; compression gains nothing on JPEG.
        writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
        try:
            for _ in range(wanted):
                if isinstance(result := next(results, None), Rejected):
                    rejected.append(result)
                elif result is None:
                    raise UserError(f"{path}: the data set ended before its images; is it complete?")
                else:
                    writer.write(result)
                    examples += 1
                bar.update()
        finally:
            writer.close()  # where everything that failed is told
        reader = ArrayRecordReader(str(temporary))
        if (found := reader.num_records()) != examples:
            raise UserError(f"{path}: cannot be written: holds {found:,} examples instead of {examples:,}")
        reader.close()
        with temporary.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        shard = Shard(path.name, examples, temporary.stat().st_size, sha256, ends(temporary), rejected)
        temporary.replace(path)
    except (RuntimeError, OSError) as error:  # RuntimeError is what ArrayRecord raises
        reason = error.strerror or error if isinstance(error, OSError) else str(error).split(";")[0]
        raise UserError(f"{path}: cannot be written: {reason}; run mmjax prepare again, which goes on there") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return shard


def _write_captions(folder: Path, index: Index, name: str, originals: Originals) -> None:
    split = index.splits[name]
    if split.captions:
        return
    if not split.examples:
        first = split.rejected[0]
        raise UserError(f"{name}: none of {split.originals:,} images can be read; {first.file}: {first.problem}")
    rejected = {row.id for row in split.rejected}
    captions = pack((key, texts) for key, texts in originals.captions() if key not in rejected)
    if len(captions) != split.examples or len(set(captions.keys.tolist())) != split.examples:
        raise UserError(f"{folder}: the images of {name} changed meanwhile, or share ids; remove it and prepare again")
    split.captions = write_captions(folder / f"{name}.captions", captions, {"preparation": preparation(index)})
    _save(folder, index)


def _finish(folder: Path, index: Index) -> None:
    rows = [
        {"split": name, **dataclasses.asdict(row)} for name, split in index.splits.items() for row in split.rejected
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_file(folder / REJECTED, lines.encode("utf-8", "replace"))
    sizes = {name: [(s.examples, s.bytes) for s in split.shards if s] for name, split in index.splits.items()}
    write_info(folder, sizes)
    write_json(folder / INDEX, dataclasses.asdict(index))
    (folder / UNFINISHED).unlink(missing_ok=True)


def _report(folder: Path, name: str, split: Split) -> None:
    if not split.rejected:
        return
    named = ", ".join(f"{row.file} ({row.problem})" for row in split.rejected[:NAMED])
    more = ", ..." if len(split.rejected) > NAMED else ""
    counts = f"{split.examples:,} kept, {len(split.rejected):,} rejected"
    logger.warning("%s: %s: %s%s; all in %s", name, counts, named, more, folder / REJECTED)
