"""COCO captions in the official folder layout."""

import contextlib
import functools
import hashlib
import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from mmjax.config import DataConfig
from mmjax.data.captions import Captions, pack
from mmjax.data.folder_dataset import is_inside
from mmjax.data.json_items import read_items, reading
from mmjax.data.random_access import indexed_source
from mmjax.data.source import RawImage, RawSplit, Rejected, Source, SourceSpec, captioned_images
from mmjax.files import read_regular
from mmjax.types import UserError

SPLITS = {"train": ("train2017", "train2014"), "validation": ("val2017", "val2014")}
EXPECTED = "data.root must hold train2017/ and annotations/captions_train2017.json, or those of another split"
NO_ID = -1  # of a caption

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
        return read_regular(coco.folder / coco.names[int(coco.captions.keys[index])])

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
    folder, path = _find_files(root, split)
    names, captions = read_captions(path)
    present = present_files(folder, names.values())
    with_captions = sorted(captions.keys() & names.keys())
    kept = [key for key in with_captions if names[key] in present]
    missing = [key for key in with_captions if names[key] not in present]
    uncaptioned = sorted(names.keys() - captions.keys())
    if missing:
        logger.warning(
            "%s: %d images are missing and left out, the first is %s", folder, len(missing), names[missing[0]]
        )
    if uncaptioned:
        logger.warning("%s: %d images have no caption and are left out", path, len(uncaptioned))
    if not kept:
        raise UserError(f"{folder}: holds none of the {len(missing)} images with captions in {path}")
    packed = pack((key, [text for _, text in captions[key]]) for key in kept)
    ids = np.array([number for key in kept for number, _ in captions[key]], np.int64)
    left_out = dict.fromkeys(missing, "no such file") | dict.fromkeys(uncaptioned, "has no caption")
    return CocoSplit(folder, names, packed, ids, left_out)


def raw_coco(root: str, split: str) -> RawSplit:
    """Opens the raw images of a split; see open_coco."""
    coco = find_coco(root, split)
    captions, keys = coco.captions, coco.captions.keys.tolist()
    digest = hashlib.sha256(json.dumps([coco.names[key] for key in keys]).encode())
    for values in (captions.keys, captions.ends, captions.text_ends, captions.text, coco.caption_ids):
        digest.update(values.data)

    def read(start: int, stop: int) -> Iterator[RawImage]:
        for index in range(start, stop):
            name = coco.names[keys[index]]
            numbers = coco.caption_ids[captions.ends[index] : captions.ends[index + 1]].tolist()
            texts = list(zip(numbers, captions[index], strict=True))
            yield RawImage(keys[index], name, texts, functools.partial(read_regular, coco.folder / name))

    def all_captions() -> Iterator[tuple[int, list[str]]]:
        return ((key, captions[index]) for index, key in enumerate(keys))

    left_out = [Rejected(key, coco.names[key], problem) for key, problem in coco.left_out.items()]
    return RawSplit(len(keys), read, all_captions, left_out, {"source": "coco_folder", "sha256": digest.hexdigest()})


def read_captions(path: Path) -> tuple[dict[int, str], dict[int, list[tuple[int, str]]]]:
    """Reads annotations/captions_SPLIT.json.

    Drops repeated images and captions, and captions that are not strings, with a warning for each kind; keeps different
    captions of the same id.

    Returns:
        By id of the image, file names, and pairs of a caption's id (or NO_ID) and its text, ordered by the ids.

    Raises:
        UserError: for a missing or invalid file, or one with two file names for an image.
    """
    names: dict[int, str] = {}
    captions: defaultdict[int, list[tuple[int, str]]] = defaultdict(list)
    problems: Counter[str] = Counter()
    layout = "'images' with id and file_name, and 'annotations' with image_id and caption"
    with reading(path, "COCO's captions", layout, "COCO's captions are expected there"):
        for item in read_items(path, "images"):
            key, name = int(item["id"]), str(item["file_name"])
            problems["images are repeated and taken once"] += key in names
            if names.setdefault(key, name) != name:
                raise UserError(f"{path}: two images have the id {key}, {names[key]} and {name}; give one another")
        for item in read_items(path, "annotations"):
            image, number, text = int(item["image_id"]), int(item.get("id", NO_ID)), item["caption"]
            if not isinstance(text, str):
                problems["captions are not strings and left out"] += 1
            elif number != NO_ID and (number, text) in captions[image]:
                problems["captions are repeated and taken once"] += 1
            else:
                captions[image].append((number, text))
        ids = np.array([number for row in captions.values() for number, _ in row if number != NO_ID], np.int64)
        np.array([*names, *captions], np.int64)  # raises OverflowError for ids that are too large
    counts = np.unique(ids, return_counts=True)[1]
    problems["captions share their id with another one; all are kept"] = int(counts[counts > 1].sum())
    for what, count in problems.items():
        if count:
            logger.warning("%s: %s %s", path, f"{count:,}", what)
    return names, {image: sorted(row, key=itemgetter(0)) for image, row in captions.items()}


def present_files(folder: Path, names: Iterable[str]) -> set[str]:
    """The names, which may be below folders, that are in a folder: each folder is listed once.

    A stat per image would take minutes on a network disk.
    """
    present = set()
    for inner in {os.path.dirname(name) for name in names}:
        if not is_inside(inner):
            continue
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            present |= {os.path.join(inner, name) for name in os.listdir(folder / inner)}
    return present


def image_folders(root: str, split: str, expected: str) -> list[Path]:
    """The folders that may hold the images of a split and exist; raises UserError without one."""
    folders = [Path(root) / name for name in SPLITS.get(split, (split,))]
    present = [folder for folder in folders if folder.is_dir()]
    if not present:
        raise UserError(f"{' or '.join(map(str, folders))}: no such folder; {expected}")
    return present


def _find_files(root: str, split: str) -> tuple[Path, Path]:
    """The image folder and the captions file."""
    if not Path(root).is_dir():
        raise UserError(f"{root}: no such folder; {EXPECTED}")
    folders = image_folders(root, split, EXPECTED)
    files = [Path(root) / "annotations" / f"captions_{folder.relative_to(root)}.json" for folder in folders]
    for folder, file in zip(folders, files, strict=True):
        if file.is_file():
            return folder, file
    raise UserError(f"{files[0]}: no such file, though there is {folders[0]}; {EXPECTED}")


SOURCE = SourceSpec(captioned_images, open_coco, raw=raw_coco)
