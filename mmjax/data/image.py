"""Decodes images (JPEG with libjpeg-turbo, everything else with Pillow), crops and resizes them."""

import contextlib
import functools
import io
import math
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import numpy as np
import simplejpeg
from jaxtyping import Float32, UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from mmjax.files import read_regular
from mmjax.types import UserError

# Checked before decoding: a small file can claim any size.
SIDE_LIMIT = 50_000  # pixels, exclusive
MAX_PIXELS = 178_000_000
FULL_SIZE = 1 << 30  # a short side to which no JPEG is decoded smaller
# Transposes by EXIF orientation (EXIF 2.3, tag 274).
_T = Image.Transpose
TURNS = {2: _T.FLIP_LEFT_RIGHT, 3: _T.ROTATE_180, 4: _T.FLIP_TOP_BOTTOM, 5: _T.TRANSPOSE, 6: _T.ROTATE_270,
         7: _T.TRANSVERSE, 8: _T.ROTATE_90}  # fmt: skip

Rectangle = tuple[int, int, int, int]  # first row, first column, rows, columns


def read_image(path: str | Path, size: int, resize: int = 0) -> Float32[np.ndarray, "{size} {size} 3"]:
    """Reads an image as float32 [y, x, 3], -1 (black) to 1 (white).

    Resizes the short side to `resize` pixels and crops the center, as evaluation does. Applies the EXIF orientation;
    takes the first frame of an animation; transparent pixels become white, in a GIF black.

    Args:
        size: side of the result, in pixels.
        resize: short side before the crop, at least `size`; 0: size * 256 / 224.

    Raises:
        UserError: for a file that is missing, too large, broken or not an image.
    """
    resize = resize or round(size * 256 / 224)
    return normalize(resized_crop(decode(read_file(path), resize, str(path)), resize, size))


def read_pixels(path: str | Path) -> UInt8[np.ndarray, "y x 3"]:
    """Reads an image as it is, but for its orientation and transparent pixels; see read_image."""
    return decode(read_file(path), FULL_SIZE, str(path))


def read_mask(path: str | Path, image: str | Path, size: int) -> UInt8[np.ndarray, "{size} {size}"]:
    """Reads the mask of an image as uint8 [y, x], cropped as by read_image(image, size, size).

    Raises UserError for an unreadable file, or one of another size than the image.
    """
    mask, colors = (load_image(file, FULL_SIZE, read_file(file)) for file in (path, image))
    if mask.size != colors.size:
        raise UserError(
            f"{path}: has {mask.width} x {mask.height} pixels; a mask must be as large as its image, "
            f"{image}, which has {colors.width} x {colors.height}"
        )
    side = min(mask.size)
    left, top = (mask.width - side) // 2, (mask.height - side) // 2
    cropped = mask.convert("L").resize((size, size), Image.Resampling.NEAREST, (left, top, left + side, top + side))
    return np.asarray(cropped)


def decode_mask(content: bytes, name: str) -> UInt8[np.ndarray, "y x"]:
    """Decodes a mask with its EXIF orientation: palette indices, else gray levels; raises as load_image."""

    def convert(image: Image.Image) -> Image.Image:
        return image.copy() if image.mode == "P" else image.convert("L")

    return np.asarray(load_image(name, FULL_SIZE, content, convert))


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits per pixel, which Pillow would clip to 255
        values = np.asarray(image).astype(np.int64).clip(0, 2**16 - 1)
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        colors = image.convert("RGBA")
        background = Image.new("RGBA", colors.size, "black" if image.format == "GIF" else "white")  # as TensorFlow
        return Image.alpha_composite(background, colors).convert("RGB")
    return image.convert("RGB")


def load_image(
    name: str | Path, short_side: int, content: bytes, convert: Callable[[Image.Image], Image.Image] = to_rgb
) -> Image.Image:
    """Loads the first frame of an image with its EXIF orientation.

    Args:
        name: for messages.
        short_side: a JPEG may be decoded smaller, down to this short side.

    Raises:
        UserError: for an image that is too large or broken, or no image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes, which are checked here, and metadata
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
                if too_large(width, height):
                    raise UserError(
                        f"{name}: {width} x {height} pixels; an image must be below {SIDE_LIMIT} pixels on each side, "
                        f"and have at most {MAX_PIXELS // 10**6} million"
                    )
                image.draft("RGB", (2 * short_side, 2 * short_side))  # JPEG: decodes at a lower resolution
                converted, turn = convert(image), orientation(image)
                return converted if turn is None else converted.transpose(turn)
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{name}: not an image; JPEG, PNG, GIF, BMP and WebP can be read") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{name}: too large; at most {MAX_PIXELS // 10**6} million pixels are read") from error
    except Exception as error:  # Pillow may raise anything for a broken file
        raise UserError(f"{name}: cannot be read as an image: {' '.join(str(error).split())}") from error


def decode(
    content: bytes, short_side: int, name: str, memory: UInt8[np.ndarray, " bytes"] | None = None
) -> UInt8[np.ndarray, "y x 3"]:
    """Decodes an image as load_image does; JPEG with libjpeg-turbo, which is faster.

    JPEGs are decoded at 1/2, 1/4 or 1/8 of their size while the short side is at least `short_side`.

    Args:
        name, short_side: as of load_image, as are errors.
        memory: buffer for the image, if it fits.
    """
    with contextlib.suppress(ValueError):  # Pillow reads more and reports errors
        return _decode_jpeg(content, short_side, memory)
    return np.asarray(load_image(name, short_side, content))


def _decode_jpeg(
    content: bytes, short_side: int, memory: UInt8[np.ndarray, " bytes"] | None
) -> UInt8[np.ndarray, "y x 3"]:
    """Raises ValueError for images that are not JPEG, broken, CMYK or too large."""
    height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
    if colors in ("CMYK", "YCCK") or too_large(width, height):
        raise ValueError
    ratio = max((r for r in (2, 4, 8) if min(height, width) // r >= short_side), default=1)
    rows, columns = -(-height // ratio), -(-width // ratio)
    smaller = {"min_height": rows, "min_width": columns, "min_factor": ratio} if ratio > 1 else {}
    fits = memory is not None and 3 * rows * columns <= memory.size
    image = simplejpeg.decode_jpeg(content, "RGB", buffer=memory if fits else None, **smaller)
    with contextlib.suppress(Exception), Image.open(io.BytesIO(content)) as stored:  # takes 40 of 1,700 us
        if (turn := orientation(stored)) is not None:
            return np.asarray(Image.fromarray(image).transpose(turn))
    return image


def orientation(image: Image.Image) -> Image.Transpose | None:
    """The transpose of an image's EXIF orientation; None without one, or if it cannot be read."""
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow may raise anything for broken metadata
        return None


def too_large(width: int, height: int) -> bool:
    return max(width, height) >= SIDE_LIMIT or width * height > MAX_PIXELS


def read_file(path: str | Path) -> bytes:
    """The content of an image file; raises UserError where it cannot be read."""
    try:
        return read_regular(Path(path))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; give the path of an image") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read as an image: {error.strerror or error}") from error


def normalize(
    image: UInt8[np.ndarray, "..."], out: Float32[np.ndarray, "..."] | None = None
) -> Float32[np.ndarray, "..."]:
    """Scales 0 to 255 to float32 from -1 (black) to 1 (white)."""
    values = np.divide(image, np.float32(127.5), out=out, dtype=np.float32)
    values -= 1
    return values


@functools.cache
def opencv() -> ModuleType:
    """Imports OpenCV with one thread per call; images are prepared concurrently."""
    import cv2

    cv2.setNumThreads(1)
    return cv2


def crop_window(
    height: int, width: int, shape: tuple[int, ...], zoom: Fraction, place: tuple[float, float] = (0.5, 0.5)
) -> Rectangle:
    """The crop of an image with the aspect ratio of `shape`, 1 / `zoom` of the limiting side.

    Args:
        shape: rows and columns.
        zoom: ratio of image and crop along the limiting side.
        place: of the crop down and across, from 0 (first rows, columns) to 1 (last), 0.5: the center; uniform places
            give uniform offsets.
    """
    y, x = shape
    # Integers, so that floating-point rounding cannot change the result.
    limit = min(height * x, width * y) * zoom.denominator
    rows, columns = (max(round(limit / (side * zoom.numerator)), 1) for side in (x, y))
    top, left = (
        max(math.ceil(where * (room + 1)) - 1, 0)
        for where, room in zip(place, (height - rows, width - columns), strict=True)
    )
    return top, left, rows, columns


def resized_crop(
    image: UInt8[np.ndarray, "y x 3"], resize: int, size: int, place: tuple[float, float] = (0.5, 0.5)
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Resizes the short side of an image to `resize` and crops size x size, antialiased.

    Args:
        size: at most `resize`.
        place: as of crop_window.
    """
    height, width, _ = image.shape
    window = crop_window(height, width, (size, size), Fraction(resize, size), place)
    return resize_window(image, window, (size, size))


def resize_window(
    image: UInt8[np.ndarray, "rows columns c"], window: Rectangle, shape: tuple[int, ...]
) -> UInt8[np.ndarray, "y x c"]:
    """Resizes a window of an image to `shape`, antialiased.

    Approximates an antialiased triangle filter in a third of its time: averages whole pixels down to a scale below 2,
    blurs with three taps of the variance that the triangle exceeds bilinear interpolation by, and interpolates.
    """
    cv2 = opencv()
    top, left, rows, columns = window
    y, x = shape
    part = image[top : top + rows, left : left + columns]
    whole = max(rows // y, 1), max(columns // x, 1)
    if max(whole) > 1:
        rows, columns = rows // whole[0], columns // whole[1]
        part = cv2.resize(part, (columns, rows), interpolation=cv2.INTER_AREA)
    if rows > y or columns > x:
        kernel = 3 if columns > x else 1, 3 if rows > y else 1
        deviations = _deviation(columns / x), _deviation(rows / y)
        part = cv2.GaussianBlur(part, kernel, deviations[0], None, deviations[1], cv2.BORDER_REPLICATE)
    return cv2.resize(part, (x, y), interpolation=cv2.INTER_LINEAR)


def _deviation(scale: float) -> float:
    """Standard deviation of the Gaussian [v / 2, 1 - v, v / 2] at -1, 0 and 1 with the variance v for a scale."""
    if scale <= 1:
        return 1.0  # for a kernel of size 1
    variance = (scale**2 - 1) / 6
    return math.sqrt(0.5 / math.log(2 * (1 - variance) / variance))
