"""Which way up an image is: the orientation of its EXIF metadata (EXIF 2.3, tag 274)."""

import struct
from collections.abc import Iterator

ORIENTATION = 0x0112
UPRIGHT = 1


def orientation(encoded: bytes) -> int:
    """What EXIF says of an encoded JPEG, PNG or WebP image, 1 to 8; 1, upright, where it says nothing sensible.

    The stored image becomes upright when it is transposed (5 to 8), then mirrored top to bottom (3, 4, 7, 8) and left
    to right (2, 3, 6, 7).
    """
    try:
        return next((found for exif in _blocks(encoded) if (found := _tag(exif))), UPRIGHT)
    except (struct.error, IndexError):  # cut short
        return UPRIGHT


def is_transposed(orientation: int) -> bool:
    return orientation >= 5


def flips(orientation: int) -> tuple[bool, bool]:
    """Whether rows and columns are mirrored, after transposing."""
    return orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)


def _blocks(encoded: bytes) -> Iterator[bytes]:
    """The EXIF metadata in an image, as TIFF."""
    at = 0
    if encoded.startswith(b"\xff\xd8"):
        at = 2
        while encoded[at] == 0xFF and encoded[at + 1] != 0xDA:  # up to where the pixels start
            (length,) = struct.unpack_from(">H", encoded, at + 2)
            if encoded[at + 1] == 0xE1 and encoded[at + 4 : at + 10] == b"Exif\0\0":
                yield encoded[at + 10 : at + 2 + length]
            at += 2 + length
    elif encoded.startswith(b"\x89PNG"):
        at = 8
        while at < len(encoded):
            length, kind = struct.unpack_from(">I4s", encoded, at)
            if kind == b"eXIf":
                yield encoded[at + 8 : at + 8 + length].removeprefix(b"Exif\0\0")
            at += 12 + length
    elif encoded.startswith(b"RIFF") and encoded[8:12] == b"WEBP":
        at = 12
        while at < len(encoded):
            kind, length = struct.unpack_from("<4sI", encoded, at)
            if kind == b"EXIF":
                yield encoded[at + 8 : at + 8 + length].removeprefix(b"Exif\0\0")
            at += 8 + length + length % 2


def _tag(tiff: bytes) -> int | None:
    """The orientation in the first directory of TIFF metadata (TIFF 6.0, section 2)."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return None
    (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
    (count,) = struct.unpack_from(f"{order}H", tiff, directory)
    for i in range(count):
        tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, directory + 2 + 12 * i)
        if tag == ORIENTATION:
            return value if 1 <= value <= 8 else None
    return None
