"""A COCO folder in the official layout, used as it is."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.data import operations
from mmjax.data.source import Reading, Rows, Source
from mmjax.types import UserError

PROVIDES = ("image", "text")
SPLITS = {"train": ("train2017", "train2014"), "validation": ("val2017", "val2014")}
EXPECTED = "data.root must hold train2017/ and annotations/captions_train2017.json, or another split of COCO alike"

logger = logging.getLogger(__name__)


def open_coco(root: str, split: str) -> Source:
    """Pictures with their captions, in order of their id.

    Args:
        root: the folder; holds `SPLIT/` with the pictures and `annotations/captions_SPLIT.json`.
        split: "train" or "validation" (of 2017, else 2014), or a split's own name such as "val2017".

    Raises:
        UserError: where something is missing, the JSON is broken or of another kind, or no picture is left.
    """
    pictures, annotations = _find(Path(root), split)
    names, captions = _parse(annotations)
    present = set(os.listdir(pictures))  # once: a question per picture would take minutes on a network disk
    with_captions = sorted(set(names) & set(captions))
    kept = [number for number in with_captions if names[number] in present]
    absent = [names[number] for number in with_captions if names[number] not in present]
    if absent:
        logger.warning("%s: %d pictures are absent and left out, the first is %s", pictures, len(absent), absent[0])
    if len(with_captions) < len(names):
        logger.warning("%s: %d pictures have no caption and are left out", annotations, len(names) - len(with_captions))
    if not kept:
        raise UserError(f"{pictures}: holds none of the {len(with_captions)} pictures with captions in {annotations}")

    def all_captions() -> Iterator[str]:
        return (caption for number in kept for caption in captions[number])

    def read(reading: Reading) -> Iterator[Rows]:
        tf = operations.tensorflow()
        paths = tf.constant([str(pictures / names[number]) for number in kept])
        keys = tf.constant(kept, tf.int64)
        texts = tf.constant(list(all_captions()))
        ends = tf.constant(np.cumsum([0] + [len(captions[number]) for number in kept]), tf.int64)

        @operations.as_written
        def record(position: Any) -> dict[str, Any]:
            epoch, index = position // len(kept), position % len(kept)
            if reading.training:
                index = operations.shuffled_index(index, epoch, len(kept), reading.seed)
            key = keys[index]
            mine = texts[ends[index] : ends[index + 1]]
            return {"epoch": epoch, "key": key, "id": tf.strings.as_string(key), "captions": mine, "path": paths[index]}

        records = operations.my_positions(reading).map(record)
        return operations.read_records(records, lambda record: tf.io.read_file(record["path"]), reading, "coco_folder")

    return Source("coco_folder", len(kept), PROVIDES, all_captions, read)


def _find(root: Path, split: str) -> tuple[Path, Path]:
    """The folder of pictures and the file of captions."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; {EXPECTED}")
    names = SPLITS.get(split, (split,))
    pairs = [(root / name, root / "annotations" / f"captions_{name}.json") for name in names]
    for pictures, annotations in pairs:
        if pictures.is_dir() and annotations.is_file():
            return pictures, annotations
    for pictures, annotations in pairs:
        if pictures.is_dir():
            raise UserError(f"{annotations}: no such file, though there is {pictures}; {EXPECTED}")
    raise UserError(f"{' or '.join(str(pictures) for pictures, _ in pairs)}: no such folder; {EXPECTED}")


def _parse(path: Path) -> tuple[dict[int, str], dict[int, list[str]]]:
    """File names and captions by the id of the picture; the captions in the order of their own ids."""
    try:
        tree = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; COCO's captions are expected there") from error
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not complete JSON ({reason}); download COCO's captions again") from error
    try:
        names = {int(image["id"]): str(image["file_name"]) for image in tree["images"]}
        captions: dict[int, list[str]] = {}
        for annotation in sorted(tree["annotations"], key=lambda annotation: int(annotation.get("id", 0))):
            captions.setdefault(int(annotation["image_id"]), []).append(str(annotation["caption"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: not COCO's captions ({type(error).__name__}: {error}); expected are 'images' with id and "
            "file_name, and 'annotations' with image_id and caption"
        ) from error
    return names, captions
