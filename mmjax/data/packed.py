"""Packed dataset of `mmjax prepare --to=DIR`: images in ArrayRecord shards with random access.

DIR/mmjax_coco/1.0.0/ is a cache (see mmjax/data/shard_cache.py) that TFDS can also open by name from DIR:

    mmjax_coco-SPLIT.array_record-00000-of-0000N   encoded images with their captions
    dataset_info.json, features.json               for TFDS, written last
    SPLIT.captions-000000000000.safetensors        keys and captions, memory-mapped
    index.json                                     key, and files with their checksums
    rejected.jsonl                                 images left out, with the reasons

Positions are those of the raw images; a shard lacks those that were rejected.
"""

import importlib.util
import logging
from pathlib import Path

from mmjax.config import DataConfig
from mmjax.data.captions import map_captions
from mmjax.data.random_access import indexed_source
from mmjax.data.raw import Rejected
from mmjax.data.shard_cache import Cache, CacheKind, open_cache
from mmjax.data.source import Source, SourceSpec, captioned_images
from mmjax.data.tfds_layout import NAME, VERSION, protos, read_record
from mmjax.types import UserError

CAPTIONS = ".captions"  # suffix of a split: the part of its captions

logger = logging.getLogger(__name__)


def folder_of(root: str | Path) -> Path:
    return Path(root) / NAME / VERSION


def kind_of(root: str | Path) -> CacheKind:
    return CacheKind("packed images", f"mmjax prepare --to={root}", "--to=DIR")


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
    if "://" in str(root):
        raise UserError(f"{root}: packed data sets are read from a disk; copy it there, or stream coco_tfds")
    for module, package in (("array_record", "array_record"), ("tensorflow_datasets", "tensorflow-datasets")):
        if importlib.util.find_spec(module) is None:
            raise UserError(f"data.source: coco_packed needs {package}: pip install {package}")
    protos()


SOURCE = SourceSpec(captioned_images, open_packed)
