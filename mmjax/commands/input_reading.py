"""Reading of models and of files as their inputs, and writing of images, for the commands."""

import argparse
import contextlib
import functools
import io
import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

import mmjax
from mmjax.config import Config
from mmjax.data import read_clip, read_image, read_pixels, read_sound
from mmjax.data.folder_dataset import in_parallel
from mmjax.data.source import find_source
from mmjax.export import PretrainedImageEncoder, PretrainedModel
from mmjax.files import check_writable, read_file, write_file
from mmjax.sample.chunks import CHUNK
from mmjax.types import UserError

IMAGES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
CLIPS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif")
SOUNDS = (".wav", ".flac", ".ogg", ".mp3")
MAX_TEXTS = 256 << 20  # bytes of a file of them
WRITTEN = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
MAX_SIDE = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383, ".gif": 65_535, ".mp4": 16_384}  # pixels

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """How files are made the inputs of a model.

    Attributes:
        endings: of the names of files.
        read: makes the input of a file, preprocessed as for evaluation, without a batch axis; of pretrained models
            uint8. Raises UserError if it cannot be read.
        shape: of an input; (): of several ones.
    """

    endings: tuple[str, ...]
    read: Callable[[Path], np.ndarray]
    shape: tuple[int, ...]


def inputs_of(model: Any) -> Inputs:
    """How files are made the inputs of a loaded model."""
    if isinstance(model, PretrainedImageEncoder):
        settings = model.images
        sides = settings.crop or settings.size
        shape = (*sides, 3) if len(sides) == 2 else ()
        return Inputs(IMAGES, lambda path: settings.resized(read_pixels(path)), shape)
    data = model.config.data
    shape = data.image_shape
    endings = SOUNDS if shape[-1] == 1 else CLIPS if len(shape) == 4 else IMAGES
    return Inputs(endings, functools.partial(_read_seen, config=model.config), shape)


def load_able(
    arguments: argparse.Namespace,
    able: type | tuple[type, ...],
    does: str,
    lora: Mapping[str | Path, float] | None = None,
) -> Any:
    """Loads --model with the packages of --plugins.

    Args:
        able: classes of which the model must be.
        does: what those do, for the error.
        lora: files of LoRAs and their weights.

    Raises:
        UserError: if it is no model or of another class.
    """
    model = mmjax.load(arguments.model, plugins=arguments.plugins, lora=lora or None)
    if isinstance(model, able):
        return model
    if isinstance(model, PretrainedModel):
        family = model.checkpoint.spec.name
        raise UserError(f"--model {arguments.model}: a pretrained {family}; name a model of mmjax that {does}")
    raise UserError(
        f"--model {arguments.model}: a {model.config.model.kind} with the losses {', '.join(model.config.losses)}; "
        f"name a model that {does}"
    )


def files_in(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """Lists the files of these endings in a folder and its subfolders, sorted by name, without hidden ones.

    Raises:
        UserError: if there is none.
    """
    paths = []

    def unreadable(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise UserError(f"{folder}: cannot be read: {error.strerror}") from error
        logger.warning("left out: %s: cannot be read: %s", error.filename, error.strerror)

    for place, folders, files in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths += [Path(place, name) for name in sorted(files) if name.lower().endswith(endings) and name[0] != "."]
    if not paths:
        raise UserError(f"{folder}: holds no file that ends in {', '.join(endings)}, in it or below")
    return paths


def _read_seen(path: Path, config: Config) -> np.ndarray:
    data, shape = config.data, config.data.image_shape
    if shape[-1] == 1:
        return read_sound(path, data.audio.rate, data.audio.seconds, data.audio.bins)
    resize = data.size if find_source(data).drawn else data.resize
    if len(shape) == 4:
        return read_clip(path, data.size, resize, data.frames, data.frame_rate)
    return read_image(path, data.size, resize)


def read_chunks(
    paths: Iterable[Path], inputs: Inputs, unreadable: Callable[[Path, UserError], None]
) -> Iterator[tuple[list[Path], np.ndarray]]:
    """Reads files as model inputs in parallel; yields up to CHUNK files at a time with their stacked inputs.

    Args:
        unreadable: called with each file that cannot be read, which is left out.
    """

    def read(path: Path) -> tuple[Path, np.ndarray | UserError]:
        try:
            return path, inputs.read(path)
        except UserError as error:
            return path, error

    def readable() -> Iterator[tuple[Path, np.ndarray]]:
        for path, found in in_parallel(functools.partial(read, path) for path in paths):
            if isinstance(found, UserError):
                unreadable(path, found)
            else:
                yield path, found

    files = readable()
    while chunk := list(itertools.islice(files, CHUNK)):
        yield [path for path, _ in chunk], np.stack([found for _, found in chunk])


def read_text_lines(option: str, path: Path) -> list[str]:
    """Reads the lines of a UTF-8 text file, stripped, without blank ones; raises UserError if it cannot be read."""
    try:
        text = read_file(path, MAX_TEXTS).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{option} {path}: cannot be read as UTF-8 text: {error}") from error
    # Other signs that str.splitlines takes for line ends may be within a line.
    return [line.strip() for line in text.replace("\r", "\n").split("\n") if line.strip()]


def check_out(option: str, path: Path | None) -> None:
    """Raises UserError for a name that is none of an image file, or where no file can be written."""
    if path is not None and path.suffix.lower() not in WRITTEN:
        raise UserError(f"{option} {path}: must end in .png, .jpg or .webp")
    if path is not None:
        with naming(option):
            check_writable(path)


def check_sheet(option: str, path: Path, size: tuple[int, int], count: int = 1, columns: int = 1) -> None:
    """Raises UserError where a sheet of images of a size [y, x] is too large for the format of the file name."""
    height, width = size[0] * -(-count // columns), size[1] * min(count, columns)
    limit = MAX_SIDE.get(path.suffix.lower(), 2**31 - 1)
    if max(height, width) > limit:
        raise UserError(
            f"{option} {path}: {width:,} x {height:,} pixels are too large, {path.suffix} holds {limit:,} a side; take "
            f"fewer of them{', or .png' if path.suffix.lower() in WRITTEN else ''}"
        )


def write_image(option: str, path: Path, image: UInt8[np.ndarray, "y x 3"]) -> None:
    """Writes an image in the format of the file name.

    Raises:
        UserError: if it cannot be written.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, WRITTEN[path.suffix.lower()], quality=95)
    write_out(option, path, buffer.getvalue())


def write_out(option: str, path: Path, content: bytes) -> None:
    """Writes the file of a command-line option, which errors name."""
    with naming(option):
        write_file(path, content)


@contextlib.contextmanager
def naming(option: str) -> Iterator[None]:
    """Puts a command-line option before the errors of its path."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{option} {error}") from None
