"""Reads clips from files or folders: frames evenly spaced in time, with the same crop.

Pillow reads animated GIF, PNG and WebP images and folders, PyAV (the extra `video`) everything else.
"""

import contextlib
import functools
import importlib.util
import itertools
import math
import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from mmjax.data.image import MAX_PIXELS, SIDE_LIMIT, load_image, normalize, resized_crop, to_rgb
from mmjax.types import UserError

ANIMATIONS = (".gif", ".png", ".apng", ".webp")
FRAMES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
TOLERANCE = 6e-3  # seconds: files round the times of frames, GIF to hundredths
DEFAULT_DURATION = 0.1  # seconds per frame of animations without durations, as in browsers

# (end time of a frame in seconds, function that decodes it)
Frames = Generator[tuple[float, Callable[[], Image.Image]], None, None]


class ClipError(UserError):
    """An unusable clip; the message continues after its name, as in "cannot be read as a clip: ..."."""


@dataclass(frozen=True)
class Footage:
    """An opened clip.

    Attributes:
        length: in seconds by the file's metadata; None without.
        frames: (time in seconds) -> frames in order, from the one shown then or an earlier one on.
    """

    length: float | None
    frames: Callable[[float], Frames]


def read_clip(
    path: str | Path, size: int, resize: int = 0, frames: int = 16, frame_rate: float = 8.0
) -> Float32[np.ndarray, "{frames} {size} {size} 3"]:
    """Reads the last frames of a clip as float32 [f, y, x, 3], -1 (black) to 1 (white), to be continued.

    Args:
        path: a file, or a folder of numbered frames at `frame_rate`.
        size, resize: of each frame, as in `mmjax.data.read_image`.
        frames: number of frames.
        frame_rate: frames per second.

    Raises:
        UserError: for a clip that is missing, broken or has fewer frames.
    """
    resize = resize or round(size * 256 / 224)
    try:
        clip = read_frames(Path(path), frames, frame_rate, resize, 1.0, lambda image: resized_crop(image, resize, size))
    except ClipError as error:
        raise UserError(f"{path}: {error}") from error
    return normalize(clip)


def read_frames(
    path: Path,
    frames: int,
    frame_rate: float,
    short_side: int,
    place: float,
    crop: Callable[[Image.Image], UInt8[np.ndarray, "y x 3"]],
) -> UInt8[np.ndarray, "{frames} y x 3"]:
    """Reads the frames that a clip shows at times 1 / frame_rate seconds apart.

    Args:
        short_side: frames of a folder may be decoded smaller, down to this short side.
        place: in the clip, from 0 (its first frames) to 1 (its last).
        crop: (upright RGB frame) -> its crop.

    Raises:
        ClipError: for an unreadable or too short clip.
        UserError: where PyAV is needed and not installed.
    """
    try:
        footage = _open(path, frame_rate, short_side)
        if footage.length is not None:
            images = _sample(footage, footage.length, frames, frame_rate, place, crop)
            if len(images) == frames:
                return np.stack(images)
        # Truncated files have their original length, and some files none or that of the sound.
        length = max((end for end, _ in footage.frames(0.0)), default=0.0)
        images = _sample(footage, length, frames, frame_rate, place, crop)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise ClipError("no such file; give the path of a clip") from error
    except Exception as error:  # readers may raise anything for a broken file
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise ClipError(f"cannot be read as a clip: {reason}") from error
    if len(images) < frames:
        has = max(math.ceil((length - TOLERANCE) * frame_rate), 0)
        raise ClipError(f"ends early: it has {has} frames at {frame_rate:g} a second, and {frames} are needed")
    return np.stack(images)


def check_pyav(path: Path) -> None:
    """Raises UserError if PyAV is needed for a file name and not installed."""
    if path.suffix.lower() not in ANIMATIONS:
        spec = importlib.util.find_spec("av")
        if spec is None or spec.origin is None:
            raise UserError(f"{path}: PyAV is needed to read it, and not installed; run pip install '.[video]'")


def _sample(
    footage: Footage,
    length: float,
    frames: int,
    frame_rate: float,
    place: float,
    crop: Callable[[Image.Image], UInt8[np.ndarray, "y x 3"]],
) -> list[UInt8[np.ndarray, "y x 3"]]:
    """The frames of read_frames; fewer where the clip ends early."""
    # The last time may be up to the end of the last frame, so that uniform places sample all frames uniformly.
    room = length - (frames - 1) / frame_rate
    start = max(min(place * room, room - 2 * TOLERANCE), 0.0)
    images: list[UInt8[np.ndarray, "y x 3"]] = []
    with contextlib.closing(footage.frames(start)) as shown:
        for end, image in shown:
            cropped = None
            while len(images) < frames and start + len(images) / frame_rate + TOLERANCE < end:
                cropped = crop(image()) if cropped is None else cropped
                images.append(cropped)
            if len(images) == frames:
                break
    return images


def _open(path: Path, frame_rate: float, short_side: int) -> Footage:
    if path.is_dir():
        return _open_folder(path, frame_rate, short_side)
    if path.suffix.lower() in ANIMATIONS:
        return _open_animation(path)
    check_pyav(path)
    return _open_video(path)


def _open_folder(path: Path, frame_rate: float, short_side: int) -> Footage:
    """Frames ordered by the numbers in their names, 10.png after 9.png."""
    names = [name for name in path.iterdir() if name.suffix.lower() in FRAMES and not name.name.startswith(".")]
    if not names:
        raise ClipError("cannot be read as a clip: the folder holds no PNG or JPEG")
    names.sort(key=lambda name: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.stem)])

    def load(name: Path) -> Image.Image:
        try:
            return load_image(name, short_side)
        except UserError as error:
            raise ClipError(f"cannot be read as a clip: {error}") from error

    def frames(start: float) -> Frames:
        for i in range(max(int(start * frame_rate) - 1, 0), len(names)):
            yield (i + 1) / frame_rate, functools.partial(load, names[i])

    return Footage(len(names) / frame_rate, frames)


def _open_animation(path: Path) -> Footage:
    def frames(start: float) -> Frames:
        end = 0.0
        with Image.open(path) as image:
            _check_size(*image.size)
            for i in range(getattr(image, "n_frames", 1)):
                try:
                    image.seek(i)
                    image.load()
                except (EOFError, OSError, SyntaxError):
                    if i == 0:
                        raise
                    return  # truncated
                end += image.info.get("duration", 0) / 1000 or DEFAULT_DURATION
                yield end, functools.partial(to_rgb, image)

    return Footage(None, frames)


def _open_video(path: Path) -> Footage:
    import av

    def frames(start: float) -> Frames:
        for since in (start, 0.0):
            with av.open(str(path)) as container:
                shown = _decoded(container, since)
                first = next(shown, None)
                if since > 0 and (first is None or first[0] > start + TOLERANCE):
                    continue  # not all formats support seeking; then decode from the beginning
                for _, end, frame in itertools.chain([first] if first else [], shown):
                    yield end, functools.partial(_to_image, frame)
                return

    with av.open(str(path)) as container:
        stream = _stream(container)
        if stream.duration is not None and stream.time_base is not None:
            return Footage(float(stream.duration * stream.time_base), frames)
        return Footage(None if container.duration is None else container.duration / av.time_base, frames)


def _stream(container: Any) -> Any:
    stream = container.streams.best("video")
    if stream is None:
        raise ClipError("holds no video")
    _check_size(stream.width, stream.height)
    return stream


def _decoded(container: Any, start: float) -> Iterator[tuple[float, float, Any]]:
    """Yields (begin, end, frame), from the last key frame at or before `start` on; nothing if seeking fails."""
    import av

    stream = _stream(container)
    stream.codec_context.thread_count = 1  # parallel over clips instead
    unit, origin = stream.time_base, stream.start_time or 0
    duration = 1 / stream.average_rate if stream.average_rate else DEFAULT_DURATION
    held: tuple[float, Any] | None = None
    try:
        if start > 0:
            container.seek(origin + int(start / unit), stream=stream)
    except av.FFmpegError:
        return
    try:
        for frame in container.decode(stream):
            if frame.is_corrupt:
                continue
            begin = float((frame.pts - origin) * unit) if frame.pts is not None else 0.0
            if held is not None:
                if frame.pts is None:
                    begin = held[0] + float(duration)
                yield held[0], begin, held[1]
            held = begin, frame
    except av.FFmpegError:
        if held is None:
            raise
        # truncated or broken from here on
    if held is not None:
        begin, frame = held
        yield begin, begin + float(frame.duration * unit if frame.duration else duration), frame


def _to_image(frame: Any) -> Image.Image:
    image = frame.to_image().convert("RGB")
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


def _check_size(width: int, height: int) -> None:
    if max(width, height) >= SIDE_LIMIT or width * height > MAX_PIXELS:
        raise ClipError(f"{width} x {height} pixels; at most {MAX_PIXELS // 10**6} million are read")
