"""A picture from a file with Pillow alone, prepared as the evaluation pictures are."""

import io
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from PIL import Image, UnidentifiedImageError

from mmjax.data import exif
from mmjax.types import UserError

# Pictures whose header says more are refused before they are decoded: a small file can ask for any amount of memory.
SIDE_LIMIT = 50_000  # pixels, exclusive
MOST_PIXELS = 178_000_000


def read_picture(path: str | Path, size: int, resize: int = 0) -> Float32[np.ndarray, "{size} {size} 3"]:
    """Reads a picture as float32 [y, x, 3], -1 (black) to 1 (white).

    The short side is brought to `resize` pixels and the center is cropped, as for evaluation. Upright as its EXIF says;
    the first frame of an animation; what is transparent becomes white, in a GIF black.

    Args:
        size: side of the result, in pixels.
        resize: short side before the crop, at least `size`; 0 takes size * 256 / 224.

    Raises:
        UserError: for a file that is missing, too large, broken or not a picture.
    """
    resize = resize or round(size * 256 / 224)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes, which are checked here, and about odd metadata
            content = Path(path).read_bytes()
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
                if max(width, height) >= SIDE_LIMIT or width * height > MOST_PIXELS:
                    raise UserError(
                        f"{path}: {width} x {height} pixels; a picture must be below {SIDE_LIMIT} pixels on each side, "
                        f"and have at most {MOST_PIXELS // 10**6} million"
                    )
                image.draft("RGB", (2 * resize, 2 * resize))  # JPEG: decoded smaller where that loses nothing
                picture = _upright(_to_rgb(image), exif.orientation(content))
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; give the path of a picture") from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: not a picture; JPEG, PNG, GIF, BMP and WebP can be read") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: too large; at most {MOST_PIXELS // 10**6} million pixels are read") from error
    except Exception as error:  # Pillow's readers raise whatever a broken file leads them to
        raise UserError(f"{path}: cannot be read as a picture: {' '.join(str(error).split())}") from error
    width, height = picture.size
    scale = min(width, height) / resize
    tall, wide = round(height / scale), round(width / scale)
    top, left = (tall - size) // 2, (wide - size) // 2
    stretch_y, stretch_x = height / tall, width / wide
    box = (left * stretch_x, top * stretch_y, (left + size) * stretch_x, (top + size) * stretch_y)
    box = (box[0], box[1], min(box[2], width), min(box[3], height))
    small = picture.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(small, np.float32) / np.float32(127.5) - np.float32(1)


def _upright(picture: Image.Image, orientation: int) -> Image.Image:
    if exif.is_transposed(orientation):
        picture = picture.transpose(Image.Transpose.TRANSPOSE)
    rows, columns = exif.flips(orientation)
    if rows:
        picture = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if columns else picture


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip to 255
        values = np.asarray(image).astype(np.int64).clip(0, 2**16 - 1)
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        colors = image.convert("RGBA")
        background = Image.new("RGBA", colors.size, "black" if image.format == "GIF" else "white")  # as TensorFlow
        return Image.alpha_composite(background, colors).convert("RGB")
    return image.convert("RGB")
