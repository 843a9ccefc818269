"""A data set as `mmjax prepare --to=DIR` writes it: shards of ArrayRecord, read in any order.

DIR/mmjax_coco/1.0.0/ is also what TFDS expects there, so that it opens by name from DIR:

    mmjax_coco-SPLIT.array_record-00000-of-0000N   the examples, encoded images with their captions
    dataset_info.json, features.json               what TFDS reads, written when all shards are whole
    SPLIT.captions                                 keys and captions, to be mapped into memory (a safetensors file)
    index.json                                     what it was made from, and the files with their SHA-256; written last
    rejected.jsonl                                 images left out, and why
    unfinished.json                                in place of index.json while it is being prepared
"""

import hashlib
import importlib.util
import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmjax.config import DataConfig
from mmjax.data.captions import Captions, map_captions
from mmjax.data.random_access import indexed_source
from mmjax.data.raw import Rejected
from mmjax.data.source import Source, SourceSpec, captioned_images
from mmjax.data.tfds_layout import NAME, VERSION, read_record
from mmjax.types import UserError

FORMAT = 1
INDEX, UNFINISHED = "index.json", "unfinished.json"
HEAD, TAIL = 4096, 1 << 16  # bytes of a shard that are looked at each time; where its records lie is told at its end
READERS = 8  # shards looked at at a time

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """A file of examples.

    Attributes:
        file: its name.
        examples: in it.
        bytes, sha256: of the file.
        ends: SHA-256 of its first and last bytes.
        rejected: images of its part of the originals that it does not hold.
    """

    file: str
    examples: int
    bytes: int
    sha256: str
    ends: str
    rejected: list[Rejected]


@dataclass
class Split:
    """A part of the data set.

    Attributes:
        originals: images it is made from, as many in each shard, fewer in the last.
        shards: None where it is not written yet.
        captions: SHA-256 of the file of the captions; "" where it is not written yet.
        left_out: images without a file or without captions.
    """

    originals: int
    shards: list[Shard | None]
    captions: str
    left_out: list[Rejected]

    @property
    def rejected(self) -> list[Rejected]:
        return [*self.left_out, *(row for shard in self.shards if shard for row in shard.rejected)]

    @property
    def examples(self) -> int:
        return sum(shard.examples for shard in self.shards if shard)


@dataclass
class Index:
    """What index.json holds. All that the shards follow from is the address; two preparations with equal ones mix."""

    format: int
    address: dict[str, Any]
    splits: dict[str, Split]


def folder_of(root: str | Path) -> Path:
    return Path(root) / NAME / VERSION


def preparation(index: Index) -> str:
    """Names the preparation, in the header of files of captions."""
    return hashlib.sha256(json.dumps(index.address, sort_keys=True).encode()).hexdigest()


def open_prepared(config: DataConfig, training: bool, seed: int) -> Source:
    """Examples in the order of the originals.

    Each shard's length, beginning and end are checked, and the captions as a whole; the bytes between are checked
    when they are read, and by `mmjax prepare`. data.root is what was given as --to, and the splits are those of the
    config that it was prepared with.

    Raises:
        UserError: where it is missing, unfinished, damaged, or has no such split.
    """
    root, split, resize = config.root, config.split(training), config.resize
    check_reader(root)
    folder, again = folder_of(root), f"run mmjax prepare --to={root} again, which repairs it"
    if not (folder / INDEX).exists():
        if (folder / UNFINISHED).exists():
            raise UserError(f"{folder}: is not finished; run mmjax prepare --to={root}, which goes on where it stopped")
        raise UserError(
            f"{folder}: no prepared data set there; make one with mmjax prepare --config=CONFIG --to={root}"
        )
    index = read_index(folder / INDEX)
    if split not in index.splits:
        raise UserError(f"{folder}: has no split {split}; it has {', '.join(index.splits)}")
    part = index.splits[split]
    shards = [shard for shard in part.shards if shard]
    for problem in filter(None, _looked_at(folder, shards)):
        raise UserError(f"{problem}; {again}")
    captions = _captions(folder / f"{split}.captions", index, part, again)
    made = index.address["resize"]
    if made and made < resize:
        logger.warning("%s: images were made smaller, to %d pixels, and data.resize is %d", folder, made, resize)
    paths = [f"{folder / shard.file}[0:{shard.examples}]" for shard in shards]
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    records = ArrayRecordDataSource(paths, {"max_parallelism": "0"})  # each call reads one; calls run side by side
    return indexed_source(
        "coco_prepared", captioned_images(config), captions, lambda index: read_record(records[index])["image"][0]
    )


def _captions(path: Path, index: Index, part: Split, again: str) -> Captions:
    try:
        captions, told = map_captions(path)
        with path.open("rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest() == part.captions
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a file of captions"
        raise UserError(f"{path}: {reason}; {again}") from error
    if told.get("preparation") != preparation(index):
        raise UserError(f"{path}: is of another preparation than {INDEX}; {again}")
    if not whole or len(captions) != part.examples:
        raise UserError(f"{path}: its bytes are not those that were written; {again}")
    return captions


def read_index(path: Path) -> Index:
    """Reads index.json or unfinished.json.

    Raises:
        UserError: where it is broken, or of a later version.
    """
    try:
        tree = json.loads(path.read_bytes())
        if tree["format"] != FORMAT:
            raise UserError(f"{path}: has format {tree['format']}, and this mmjax reads {FORMAT}; prepare it again")
        splits = {name: _split(row) for name, row in tree["splits"].items()}
        return Index(tree["format"], tree["address"], splits)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not an index of prepared data; remove {path.parent} and prepare it again") from error


def _split(row: Mapping[str, Any]) -> Split:
    shards = [None if s is None else Shard(**{**s, "rejected": _rejected(s["rejected"])}) for s in row["shards"]]
    return Split(**{**row, "shards": shards, "left_out": _rejected(row["left_out"])})


def _rejected(rows: Sequence[Mapping[str, Any]]) -> list[Rejected]:
    return [Rejected(**row) for row in rows]


def ends(path: Path) -> str:
    """SHA-256 of the first and the last bytes of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256(file.read(HEAD))
        file.seek(max(path.stat().st_size - TAIL, 0))
        digest.update(file.read())
    return digest.hexdigest()


def _looked_at(folder: Path, shards: Sequence[Shard]) -> list[str]:
    """What can be told to be wrong with each shard without reading it all, "" where that is nothing."""

    def problem(shard: Shard) -> str:
        path = folder / shard.file
        try:
            if (found := path.stat().st_size) != shard.bytes:
                return f"{path}: holds {found:,} bytes instead of {shard.bytes:,}: cut off, or of another preparation"
            return "" if ends(path) == shard.ends else f"{path}: damaged, or of another preparation"
        except OSError as error:
            return f"{path}: {error.strerror or error}"

    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(problem, shards))


def check_reader(root: str | Path) -> None:
    """Raises UserError where ArrayRecord or the records in it cannot be read or written."""
    if "://" in str(root):
        raise UserError(f"{root}: prepared data sets are read from a disk; copy it there, or stream coco_tfds")
    for module, package in (("array_record", "array_record"), ("tensorflow_datasets", "tensorflow-datasets")):
        if importlib.util.find_spec(module) is None:
            raise UserError(f"data.source: coco_prepared needs {package}: pip install {package}")


SOURCE = SourceSpec(captioned_images, open_prepared)
