"""An image from an encoded file: JPEGs by libjpeg-turbo, everything else by Pillow."""

import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import simplejpeg
from jaxtyping import Float32, UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from mmjax.data.resize import resized_crop as resize_array
from mmjax.types import UserError

# Images whose header says more are refused before they are decoded: a small file can ask for any amount of memory.
SIDE_LIMIT = 50_000  # pixels, exclusive
MAX_PIXELS = 178_000_000
JPEG = b"\xff\xd8"
# What makes an image upright, by its orientation (EXIF 2.3, tag 274).
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: str | Path, size: int, resize: int = 0) -> Float32[np.ndarray, "{size} {size} 3"]:
    """Reads an image as float32 [y, x, 3], -1 (black) to 1 (white).

    The short side is brought to `resize` pixels and the center is cropped, as for evaluation. Upright as its EXIF says;
    the first frame of an animation; what is transparent becomes white, in a GIF black.

    Args:
        size: side of the result, in pixels.
        resize: short side before the crop, at least `size`; 0 takes size * 256 / 224.

    Raises:
        UserError: for a file that is missing, too large, broken or not an image.
    """
    resize = resize or round(size * 256 / 224)
    return normalize(resize_array(decode(_content(path), resize, str(path)), resize, size))


def read_mask(path: str | Path, image: str | Path, size: int) -> UInt8[np.ndarray, "{size} {size}"]:
    """Reads the mask of an image as uint8 [y, x]: prepared as the image is by read_image(image, size, size).

    Raises:
        UserError: for a file that cannot be read, or is not of the image's width and height.
    """
    mask, colors = load_image(path, 1 << 30), load_image(image, 1 << 30)
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
    """A mask from an encoded file, upright: the numbers of the colors of a palette, else gray levels.

    Raises:
        UserError: as load_image.
    """
    return np.asarray(
        load_image(name, 1 << 30, content, lambda image: image.copy() if image.mode == "P" else image.convert("L"))
    )


def load_image(
    path: str | Path,
    short_side: int,
    content: bytes | None = None,
    convert: Callable[[Image.Image], Image.Image] | None = None,
) -> Image.Image:
    """An image's first frame as RGB, upright. A JPEG may be smaller, if its short side stays at least `short_side`.

    Args:
        content: of the file, where it was read already.
        convert: to something else than RGB.

    Raises:
        UserError: for a file that is missing, too large, broken or not an image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes, which are checked here, and about odd metadata
            content = _content(path) if content is None else content
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
                if max(width, height) >= SIDE_LIMIT or width * height > MAX_PIXELS:
                    raise UserError(
                        f"{path}: {width} x {height} pixels; an image must be below {SIDE_LIMIT} pixels on each side, "
                        f"and have at most {MAX_PIXELS // 10**6} million"
                    )
                image.draft("RGB", (2 * short_side, 2 * short_side))  # JPEG: decoded smaller where that loses nothing
                rgb, turn = (convert or to_rgb)(image), orientation(image)
                return rgb if turn is None else rgb.transpose(turn)
    except UserError:
        raise
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: not an image; JPEG, PNG, GIF, BMP and WebP can be read") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: too large; at most {MAX_PIXELS // 10**6} million pixels are read") from error
    except Exception as error:  # Pillow's readers raise whatever a broken file leads them to
        raise UserError(f"{path}: cannot be read as an image: {' '.join(str(error).split())}") from error


def decode(
    content: bytes, short_side: int, name: str, memory: UInt8[np.ndarray, " bytes"] | None = None
) -> UInt8[np.ndarray, "y x 3"]:
    """An image's first frame as RGB, upright, as of load_image; a JPEG by libjpeg-turbo, which is faster.

    A JPEG comes out at a half, quarter or eighth of its size where its short side stays at least `short_side`.

    Args:
        content: of a file.
        name: for messages.
        memory: where the image may be put if it fits, until the next one is.

    Raises:
        UserError: as load_image.
    """
    if content.startswith(JPEG):
        with contextlib.suppress(ValueError):  # then Pillow decides: it reads what is merely odd, and tells what is not
            image = _decode_jpeg(content, short_side, memory)
            if image is not None:
                return image
    return np.asarray(load_image(name, short_side, content))


def _decode_jpeg(
    content: bytes, short_side: int, memory: UInt8[np.ndarray, " bytes"] | None
) -> UInt8[np.ndarray, "y x 3"] | None:
    """None: of more colors, or too large."""
    height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
    if colors in ("CMYK", "YCCK") or max(height, width) >= SIDE_LIMIT or height * width > MAX_PIXELS:
        return None
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
    """What makes a stored image upright as its EXIF says; None where it says nothing, or cannot be read."""
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow's readers raise whatever broken metadata leads them to
        return None


def _content(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; give the path of an image") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read as an image: {error.strerror or error}") from error


def normalize(
    image: UInt8[np.ndarray, "..."], out: Float32[np.ndarray, "..."] | None = None
) -> Float32[np.ndarray, "..."]:
    """Values from 0 to 255 as float32 from -1 (black) to 1 (white)."""
    values = np.divide(image, np.float32(127.5), out=out, dtype=np.float32)
    values -= 1
    return values


def resized_crop(
    image: Image.Image, resize: int, size: int, place: tuple[float, float] = (0.5, 0.5)
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """resize.resized_crop of an RGB image of Pillow's."""
    return resize_array(np.asarray(image), resize, size, place)


def to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip to 255
        values = np.asarray(image).astype(np.int64).clip(0, 2**16 - 1)
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        colors = image.convert("RGBA")
        background = Image.new("RGBA", colors.size, "black" if image.format == "GIF" else "white")  # as TensorFlow
        return Image.alpha_composite(background, colors).convert("RGB")
    return image.convert("RGB")
