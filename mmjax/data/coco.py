"""COCO captions in the official folder layout."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from mmjax.config import DataConfig
from mmjax.data.annotations import read_annotations
from mmjax.data.captions import Captions, pack
from mmjax.data.random_access import indexed_source
from mmjax.data.source import RawImage, RawSplit, Rejected, Source, SourceSpec, captioned_images
from mmjax.types import UserError

SPLITS = {"train": ("train2017", "train2014"), "validation": ("val2017", "val2014")}
EXPECTED = "data.root must hold train2017/ and annotations/captions_train2017.json, or those of another split"

logger = logging.getLogger(__name__)


def open_coco(config: DataConfig, training: bool, seed: int) -> Source:
    """Opens captioned images, ordered by id.

    data.root holds `SPLIT/` with the images and `annotations/captions_SPLIT.json`. "train" and "validation" are the
    splits of 2017, else of 2014.

    Raises:
        UserError: where files are missing or invalid, or no image is left.
    """
    coco = find_coco(config.root, config.split(training))

    def image(index: int) -> bytes:
        return (coco.folder / coco.names[int(coco.captions.keys[index])]).read_bytes()

    return indexed_source("coco_folder", captioned_images(config), coco.captions, image)


@dataclass(frozen=True)
class CocoSplit:
    """The images of a split with a file and captions, ordered by id.

    Attributes:
        folder: of the images.
        names: file names by id, including images left out.
        captions: of the remaining images.
        caption_ids: id of each caption.
        left_out: why images are left out, by id.
    """

    folder: Path
    names: dict[int, str]
    captions: Captions
    caption_ids: Int64[np.ndarray, " m"]
    left_out: dict[int, str]


def find_coco(root: str, split: str) -> CocoSplit:
    """Finds the images and captions of a split; see open_coco."""
    folder, path = _find_files(Path(root), split)
    annotations = read_annotations(path)
    names = annotations.names
    present = set(os.listdir(folder))  # once: a stat per image would take minutes on a network disk
    with_captions = sorted(annotations.captions.keys() & names.keys())
    kept = [key for key in with_captions if names[key] in present]
    missing = [key for key in with_captions if names[key] not in present]
    uncaptioned = sorted(names.keys() - annotations.captions.keys())
    if missing:
        logger.warning(
            "%s: %d images are missing and left out, the first is %s", folder, len(missing), names[missing[0]]
        )
    if uncaptioned:
        logger.warning("%s: %d images have no caption and are left out", path, len(uncaptioned))
    if not kept:
        raise UserError(f"{folder}: holds none of the {len(missing)} images with captions in {path}")
    rows = [annotations.captions[key] for key in kept]
    captions = pack((key, [text for _, text in row]) for key, row in zip(kept, rows, strict=True))
    ids = np.array([number for row in rows for number, _ in row], np.int64)
    left_out = dict.fromkeys(missing, "no such file") | dict.fromkeys(uncaptioned, "has no caption")
    return CocoSplit(folder, names, captions, ids, left_out)


def raw_coco(root: str, split: str) -> RawSplit:
    """Opens the raw images of a split; see open_coco."""
    coco = find_coco(root, split)
    captions = coco.captions
    keys = captions.keys.tolist()
    digest = hashlib.sha256(json.dumps([coco.names[key] for key in keys]).encode())
    for values in (captions.keys, captions.ends, captions.text_ends, captions.text, coco.caption_ids):
        digest.update(values.data)

    def read(start: int, stop: int) -> Iterator[RawImage]:
        for index in range(start, stop):
            name = coco.names[keys[index]]
            numbers = coco.caption_ids[captions.ends[index] : captions.ends[index + 1]].tolist()
            texts = list(zip(numbers, captions[index], strict=True))
            yield RawImage(keys[index], name, texts, (coco.folder / name).read_bytes)

    def all_captions() -> Iterator[tuple[int, list[str]]]:
        return ((key, captions[index]) for index, key in enumerate(keys))

    left_out = [Rejected(key, coco.names[key], problem) for key, problem in coco.left_out.items()]
    return RawSplit(len(keys), read, all_captions, left_out, {"source": "coco_folder", "sha256": digest.hexdigest()})


def _find_files(root: Path, split: str) -> tuple[Path, Path]:
    """The image folder and the captions file."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; {EXPECTED}")
    names = SPLITS.get(split, (split,))
    pairs = [(root / name, root / "annotations" / f"captions_{name}.json") for name in names]
    for images, annotations in pairs:
        if images.is_dir() and annotations.is_file():
            return images, annotations
    for images, annotations in pairs:
        if images.is_dir():
            raise UserError(f"{annotations}: no such file, though there is {images}; {EXPECTED}")
    raise UserError(f"{' or '.join(str(images) for images, _ in pairs)}: no such folder; {EXPECTED}")


SOURCE = SourceSpec(captioned_images, open_coco, raw=raw_coco)
