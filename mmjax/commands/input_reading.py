"""Reading of files as model inputs, and writing of images, for the commands."""

import functools
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mmjax.config import Config
from mmjax.data import read_clip, read_image, read_sound
from mmjax.data.folder_dataset import in_parallel
from mmjax.data.source import find_source
from mmjax.files import write_file
from mmjax.types import UserError

IMAGES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
CLIPS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif")
SOUNDS = (".wav", ".flac", ".ogg", ".mp3")
WRITTEN = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def suffixes(config: Config) -> tuple[str, ...]:
    """File name suffixes of the inputs of a model."""
    shape = config.data.image_shape
    return SOUNDS if shape[-1] == 1 else CLIPS if len(shape) == 4 else IMAGES


def files_in(folder: Path, config: Config) -> list[Path]:
    """Lists the files for a model in a folder and its subfolders, sorted by name, without hidden ones.

    Raises:
        UserError: if there is none.
    """
    paths, endings = [], suffixes(config)
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths += [Path(place, name) for name in sorted(files) if name.lower().endswith(endings) and name[0] != "."]
    if not paths:
        raise UserError(f"{folder}: holds no file that ends in {', '.join(endings)}, in it or below")
    return paths


def read_seen(path: Path, config: Config) -> np.ndarray:
    """Reads a file as a model input, preprocessed as for evaluation, without a batch axis.

    Raises:
        UserError: if it cannot be read.
    """
    data, shape = config.data, config.data.image_shape
    if shape[-1] == 1:
        return read_sound(path, data.audio.rate, data.audio.seconds, data.audio.bins)
    resize = data.size if find_source(data).drawn else data.resize
    if len(shape) == 4:
        return read_clip(path, data.size, resize, data.frames, data.frame_rate)
    return read_image(path, data.size, resize)


def read_all(paths: Iterable[Path], config: Config) -> Iterator[np.ndarray | UserError]:
    """Reads files as model inputs in parallel; yields the error for an unreadable one."""

    def read(path: Path) -> np.ndarray | UserError:
        try:
            return read_seen(path, config)
        except UserError as error:
            return error

    yield from in_parallel(functools.partial(read, path) for path in paths)


def check_out(option: str, path: Path | None) -> None:
    """Raises UserError for a name that is none of an image file."""
    if path is not None and path.suffix.lower() not in WRITTEN:
        raise UserError(f"{option} {path}: must end in .png, .jpg or .webp")


def write_image(option: str, path: Path, image: UInt8[np.ndarray, "y x 3"]) -> None:
    """Writes an image in the format of the file name.

    Raises:
        UserError: if it cannot be written.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, WRITTEN[path.suffix.lower()], quality=95)
    try:
        write_file(path, buffer.getvalue())
    except UserError as error:
        raise UserError(f"{option} {error}") from None
