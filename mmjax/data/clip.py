"""Clips: frames evenly spaced in time with the same crop, and folders of clips with captions (see folder_dataset).

A clip is a file or a folder of numbered frames (PNG, JPEG). Pillow reads folders and animated GIF, PNG and WebP
images, PyAV (the extra `video`) everything else.
"""

import contextlib
import functools
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

from mmjax.config import DataConfig
from mmjax.data.folder_dataset import FolderKind, Unusable, open_folder, require_package
from mmjax.data.image import MAX_PIXELS, load_image, normalize, read_file, resized_crop, to_rgb, too_large
from mmjax.data.source import ReadSpec, Source, SourceSpec, captioned_images
from mmjax.files import is_regular
from mmjax.types import UserError

ANIMATIONS = (".gif", ".png", ".apng", ".webp")
FRAMES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
TOLERANCE = 6e-3  # seconds: files round the times of frames, GIF to hundredths
DEFAULT_DURATION = 0.1  # seconds per frame of animations without durations, as in browsers

Crop = Callable[[UInt8[np.ndarray, "rows columns 3"]], UInt8[np.ndarray, "y x 3"]]  # of an upright RGB frame
# (end time of a frame in seconds, function that decodes it)
_T = Image.Transpose
# By the signs of a, b, c and d of a display matrix, which shows the pixel (x, y) at (a x + c y, b x + d y).
TURNS = {(-1, 0, 0, 1): _T.FLIP_LEFT_RIGHT, (1, 0, 0, -1): _T.FLIP_TOP_BOTTOM, (-1, 0, 0, -1): _T.ROTATE_180,
         (0, 1, -1, 0): _T.ROTATE_270, (0, -1, 1, 0): _T.ROTATE_90, (0, 1, 1, 0): _T.TRANSPOSE,
         (0, -1, -1, 0): _T.TRANSVERSE}  # fmt: skip

Frames = Generator[tuple[float, Callable[[], Image.Image]], None, None]


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
    except Unusable as error:
        raise UserError(f"{path}: {error}") from error
    return normalize(clip)


def read_frames(
    path: Path, frames: int, frame_rate: float, short_side: int, place: float, crop: Crop
) -> UInt8[np.ndarray, "{frames} y x 3"]:
    """Reads the frames that a clip shows at times 1 / frame_rate seconds apart.

    Args:
        short_side: frames of a folder may be decoded smaller, down to this short side.
        place: in the clip, from 0 (its first frames) to 1 (its last).

    Raises:
        Unusable: for an unreadable or too short clip.
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
        raise Unusable("no such file; give the path of a clip") from error
    except Exception as error:  # readers may raise anything for a broken file
        reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise Unusable(f"cannot be read as a clip: {reason}") from error
    if len(images) < frames:
        has = max(math.ceil((length - TOLERANCE) * frame_rate), 0)
        raise Unusable(f"ends early: it has {has} frames at {frame_rate:g} a second, and {frames} are needed")
    return np.stack(images)


def check_pyav(path: Path) -> None:
    """Raises UserError if PyAV is needed for a file name and not installed."""
    if path.suffix.lower() not in ANIMATIONS:
        require_package(path, "av", "PyAV", "video")


def _sample(
    footage: Footage, length: float, frames: int, frame_rate: float, place: float, crop: Crop
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
                cropped = crop(np.asarray(image())) if cropped is None else cropped
                images.append(cropped)
            if len(images) == frames:
                break
    return images


def _open(path: Path, frame_rate: float, short_side: int) -> Footage:
    if path.is_dir():
        return _open_folder(path, frame_rate, short_side)
    if not is_regular(path):
        raise Unusable("is no regular file")
    return _open_animation(path) if path.suffix.lower() in ANIMATIONS else _open_video(path)


def _open_folder(path: Path, frame_rate: float, short_side: int) -> Footage:
    """Frames ordered by the numbers in their names, 10.png after 9.png."""
    names = [name for name in path.iterdir() if name.suffix.lower() in FRAMES and not name.name.startswith(".")]
    if not names:
        raise Unusable("cannot be read as a clip: the folder holds no PNG or JPEG")
    names.sort(key=lambda name: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name.stem)])

    def load(name: Path) -> Image.Image:
        try:
            return load_image(name, short_side, read_file(name))
        except UserError as error:
            raise Unusable(f"cannot be read as a clip: {error}") from error

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
    check_pyav(path)
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
        raise Unusable("holds no video")
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
    image, shown = frame.to_image().convert("RGB"), frame.side_data.get("DISPLAYMATRIX")
    if shown is None:
        return image
    a, b, _, c, d = (int(value) for value in np.sign(np.frombuffer(bytes(shown), np.int32)[:5]))
    turn = TURNS.get((a, b, c, d))
    if turn is None:  # by no multiple of 90 degrees, or none
        return image.rotate(frame.rotation, expand=True) if frame.rotation else image
    return image.transpose(turn)


def _check_size(width: int, height: int) -> None:
    if too_large(width, height):
        raise Unusable(f"{width} x {height} pixels; at most {MAX_PIXELS // 10**6} million are read")


KIND = FolderKind("clip", '{"clip": "name.mp4", "captions": ["what it shows"]}', check_pyav)


def open_clips(config: DataConfig, training: bool, seed: int) -> Source:
    """Opens captioned clips, in the order of captions.jsonl.

    "image" is [b, f, y, x, 3], or [b, y, x, 3] if data.frames is 1. Training samples start, crop and flip; evaluation
    takes the middle.

    Raises:
        UserError: where a file is missing, a line is invalid, or PyAV is needed and not installed.
    """
    features = captioned_images(config)

    def load(path: Path, spec: ReadSpec, epoch: int, key: int) -> Float32[np.ndarray, "*f y x 3"]:
        start, down, across, mirror = 0.5, 0.5, 0.5, 1.0
        if spec.training:
            # 1: a random stream independent of the choice of the caption.
            start, down, across, mirror = np.random.default_rng((spec.seed, epoch, key, 1)).random(4)
        flip = spec.flip and mirror < 0.5

        def crop(image: UInt8[np.ndarray, "rows columns 3"]) -> UInt8[np.ndarray, "y x 3"]:
            cropped = resized_crop(image, spec.resize, spec.size, (down, across))
            return cropped[:, ::-1] if flip else cropped

        clip = read_frames(path, config.frames, config.frame_rate, spec.resize, start, crop)
        return normalize(clip.reshape(features["image"].shape))

    return open_folder("clips_folder", Path(config.root) / config.split(training), KIND, features, load)


SOURCE = SourceSpec(captioned_images, open_clips, gives_clips=True)
