"""Reads COCO's captions file."""

import logging
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmjax.data.json_items import NotJSON, read_items
from mmjax.types import UserError

NO_ID = -1  # of a caption
EXPECTED = "expected are 'images' with id and file_name, and 'annotations' with image_id and caption"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Annotations:
    """Contents of a captions file.

    Attributes:
        names: file name of each image, by the image's id.
        captions: by the image's id, pairs of a caption's id (or NO_ID) and its text, ordered by the ids.
    """

    names: dict[int, str]
    captions: dict[int, list[tuple[int, str]]]


def read_annotations(path: Path) -> Annotations:
    """Reads annotations/captions_SPLIT.json.

    Drops repeated images and captions, and captions that are not strings, with a warning for each kind; keeps different
    captions of the same id.

    Raises:
        UserError: for a missing or invalid file, or one with two file names for an image.
    """
    try:
        names, repeated_images = _read_names(path)
        captions, repeated, not_text = _read_captions(path)
        ids = np.array([number for row in captions.values() for number, _ in row if number != NO_ID], np.int64)
        np.array([*names, *captions], np.int64)  # raises OverflowError for ids that are too large
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; COCO's captions are expected there") from error
    except NotJSON as error:
        raise UserError(f"{path}: not complete JSON ({error}); download COCO's captions again") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{path}: not COCO's captions ({type(error).__name__}: {error}); {EXPECTED}") from error
    counts = np.unique(ids, return_counts=True)[1]
    for count, what in (
        (repeated_images, "images are repeated and taken once"),
        (repeated, "captions are repeated and taken once"),
        (int(counts[counts > 1].sum()), "captions share their id with another one; all are kept"),
        (not_text, "captions are not strings and left out"),
    ):
        if count:
            logger.warning("%s: %s %s", path, f"{count:,}", what)
    return Annotations(names, captions)


def _read_names(path: Path) -> tuple[dict[int, str], int]:
    """File names by id, and the number of repeated images."""
    names: dict[int, str] = {}
    count = 0
    for item in read_items(path, "images"):
        key, name = int(item["id"]), str(item["file_name"])
        if names.setdefault(key, name) != name:
            raise UserError(f"{path}: two images have the id {key}, {names[key]} and {name}; give one another")
        count += 1
    return names, count - len(names)


def _read_captions(path: Path) -> tuple[dict[int, list[tuple[int, str]]], int, int]:
    """Captions by id of the image, and the numbers of repeated ones and of those that are not strings."""
    captions: defaultdict[int, list[tuple[int, str]]] = defaultdict(list)
    repeated = not_text = 0
    for item in read_items(path, "annotations"):
        image, entry = int(item["image_id"]), (int(item.get("id", NO_ID)), item["caption"])
        if not isinstance(item["caption"], str):
            not_text += 1
        elif entry[0] != NO_ID and entry in captions[image]:
            repeated += 1
        else:
            captions[image].append(entry)
    for row in captions.values():
        row.sort(key=lambda entry: entry[0])
    return dict(captions), repeated, not_text
