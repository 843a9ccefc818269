"""Folder of labeled images: ROOT/SPLIT/CLASS/ holds the images of a class."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mmjax.config import DataConfig
from mmjax.data.random_access import labels_of, read_examples
from mmjax.data.source import Examples, Source, SourceSpec, digest_of, image_feature
from mmjax.files import read_regular
from mmjax.types import Feature, UserError

SUFFIXES = (".jpg", ".jpeg", ".png")

logger = logging.getLogger(__name__)


def features(config: DataConfig) -> dict[str, Feature]:
    return {"image": image_feature(config), "label": Feature("label")}


def open_classes(config: DataConfig, training: bool, seed: int) -> Source:
    """Opens labeled images, ordered by class and file name.

    Classes are those of the training split, sorted by name.

    Raises:
        UserError: where a folder is missing, or has no class or one that the training split lacks.
    """
    root = Path(config.root)
    folder, classes = root / config.split(training), _classes(root / config.train_split)
    names, other = [], 0
    for name in _classes(folder):
        if name not in classes:
            raise UserError(f"{folder / name}: not a class of the training images in {root / config.train_split}")
        files = _names(folder / name, os.DirEntry.is_file)
        images = [file for file in files if file.lower().endswith(SUFFIXES)]
        names += [f"{name}/{file}" for file in images]
        other += len(files) - len(images)
        if not images:
            logger.warning("%s: holds no image (%s)", folder / name, ", ".join(SUFFIXES))
    if other:
        logger.warning("%s: %s files are not images and left out", folder, f"{other:,}")
    if not names:
        raise UserError(f"{folder}: its classes hold no images ({', '.join(SUFFIXES)})")
    label = labels_of([name.partition("/")[0] for name in names], classes)

    def columns(indices: list[int]) -> Examples:
        return {"id": [names[index] for index in indices], "label": label[indices]}

    def load(index: int) -> Examples:
        return {"image": read_regular(folder / names[index])}

    read = read_examples(np.arange(len(names)), load, columns, features(config))
    digest = digest_of(classes, names)
    return Source(
        "classes_folder", len(names), features(config), lambda: iter(()), read, classes=classes, digest=digest
    )


SOURCE = SourceSpec(features, open_classes)


def _classes(folder: Path) -> tuple[str, ...]:
    try:
        names = _names(folder, os.DirEntry.is_dir)
    except OSError as error:
        raise UserError(
            f"{folder}: {error.strerror}; data.root must hold a folder for each split (data.train_split, "
            "data.evaluation_split) with a folder of images for each class"
        ) from error
    if not names:
        raise UserError(f"{folder}: holds no folder; the images of each class must be in a folder of their own")
    return tuple(names)


def _names(folder: Path, kind: Callable[["os.DirEntry[str]"], bool]) -> list[str]:
    """Sorted names in a folder, without hidden ones."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if kind(entry) and not entry.name.startswith("."))
