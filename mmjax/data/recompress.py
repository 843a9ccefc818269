"""Makes records of packed datasets from raw images: reads, checks and resizes them."""

import io

from PIL import Image

from mmjax.data.image import load_image
from mmjax.data.raw import RawImage, Rejected
from mmjax.data.tfds_layout import record
from mmjax.types import UserError

QUALITY = 95  # of JPEG, without chroma subsampling
KINDS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP")  # that training can read; MPO is JPEG with further images


def make_record(raw: RawImage, resize: int) -> bytes | Rejected:
    """Makes the record of an image, or tells why it is rejected.

    Args:
        resize: as in recompress.

    Raises:
        UserError: for disk failures.
    """
    try:
        image = recompress(raw.content(), raw.name, resize)
    except UserError as error:
        return Rejected(raw.key, raw.name, str(error).removeprefix(f"{raw.name}: "))
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        return Rejected(raw.key, raw.name, (error.strerror or "cannot be read").lower())
    except OSError as error:  # of a disk, not of an image
        raise UserError(f"{error.filename or raw.name}: cannot be read: {error.strerror or error}") from error
    return record(image, raw.name, raw.key, raw.captions)


def recompress(content: bytes, name: str, resize: int) -> bytes:
    """Resizes the short side of a larger image to `resize` pixels (Lanczos), as JPEG; others are unchanged.

    Args:
        content: of the file; always fully decoded as a check.
        resize: 0: any size.

    Raises:
        UserError: for a broken, too large or unsupported image.
    """
    image = load_image(name, resize or 1, content)
    with Image.open(io.BytesIO(content)) as stored:
        kind, short_side = stored.format, min(stored.size)
    if kind not in KINDS:
        raise UserError(f"{name}: is {kind}; JPEG, PNG, GIF, BMP and WebP can be read")
    if not resize or short_side <= resize:
        return content
    scale = resize / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    file = io.BytesIO()
    image.resize((width, height), Image.Resampling.LANCZOS).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()
