"""From a published image to the record of a packed data set: read, checked, made smaller where that is wanted."""

import io
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from PIL import Image

from mmjax.data.image import load_image
from mmjax.data.raw import Original, Rejected
from mmjax.data.tfds_layout import record
from mmjax.types import UserError

QUALITY = 95  # of JPEG; colors are stored at full size, as images are small by then
KINDS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP")  # that training can read; MPO is JPEG with more behind it
AHEAD = 4  # images waiting for each thread


def recompress_all(
    pool: ThreadPoolExecutor, jobs: int, resize: int, originals: Iterable[Original]
) -> Iterator[bytes | Rejected]:
    """The record of each image, or why there is none, in order.

    Args:
        jobs: threads of the pool.
        resize: as in recompress.

    Raises:
        UserError: where a disk fails.
    """
    waiting: deque[Future[bytes | Rejected]] = deque()
    for original in originals:
        waiting.append(pool.submit(_recompressed, original, resize))
        if len(waiting) > AHEAD * jobs:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _recompressed(original: Original, resize: int) -> bytes | Rejected:
    try:
        image = recompress(original.content(), original.name, resize)
    except UserError as error:
        return Rejected(original.key, original.name, str(error).removeprefix(f"{original.name}: "))
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        return Rejected(original.key, original.name, (error.strerror or "cannot be read").lower())
    except OSError as error:  # of a disk, not of an image
        raise UserError(f"{error.filename or original.name}: cannot be read: {error.strerror or error}") from error
    return record(image, original.name, original.key, original.captions)


def recompress(content: bytes, name: str, resize: int) -> bytes:
    """An image whose short side has at most `resize` pixels: a JPEG, by Lanczos; the same bytes if it is so already.

    Args:
        content: of the file; decoded as a whole, whatever comes of it.
        resize: 0 keeps any size.

    Raises:
        UserError: where it is broken, too large, or of a kind that training cannot read.
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
