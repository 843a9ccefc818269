"""Which way up images are: EXIF as cameras and Pillow write it, in odd places, and broken."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_data import encoded
from PIL import Image

from mmjax.data.image import decode
from mmjax.types import UserError

# EXIF 2.3, tag 274: where the stored image's first row and first column are in the upright one.
SIDES = {
    1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
    5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
}  # fmt: skip
OPPOSITE = {"top": "bottom", "bottom": "top", "left": "right", "right": "left"}
GREYS = np.array([[0, 80], [160, 240]])  # of the quarters of the stored image
STORED = Image.fromarray(np.kron(GREYS, np.ones((16, 24))).astype(np.uint8)).convert("RGB")


def orientation(content: bytes) -> int:
    """By which orientation the decoded image was turned, found in where its quarters are."""
    image = decode(content, 1000, "it")
    height, width = image.shape[0] // 4, image.shape[1] // 4
    seen = image[height :: 2 * height, width :: 2 * width, 0].astype(int)
    (found,) = (value for value in SIDES if np.abs(seen - upright(value)).max() < 9)
    assert image.shape == ((32, 48, 3) if found < 5 else (48, 32, 3))
    return found


def upright(value: int) -> np.ndarray:
    greys = np.zeros((2, 2), int)
    for row, column in np.ndindex(2, 2):
        sides = {OPPOSITE[side] if place else side for side, place in zip(SIDES[value], (row, column), strict=True)}
        greys[int("bottom" in sides), int("right" in sides)] = GREYS[row, column]
    return greys


def tiff(value: int, order: str = "<", kind: str = "H") -> bytes:
    """A directory of TIFF (6.0, section 2) with the orientation alone, a SHORT (H) or a LONG (I)."""
    entry = struct.pack(f"{order}HHI{kind}", 0x0112, {"H": 3, "I": 4}[kind], 1, value)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, 1)
    return head + entry.ljust(12, b"\0") + bytes(4)


def segment(content: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", 8 + len(content)) + b"Exif\0\0" + content


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def with_orientation(kind: str, value: int) -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x0131] = "maker", value, "software"
    return encoded(STORED, kind, exif=exif)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("value", SIDES)
def test_images_are_turned_upright(kind: str, value: int) -> None:
    assert orientation(with_orientation(kind, value)) == value


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["H", "I"])
@pytest.mark.parametrize("before", [b"", b"\xff", b"\xff\xff\xff", b"\xff\xfe\0\x05abc"])  # fill bytes, a comment
def test_any_order_of_bytes_and_place_in_a_jpeg(order: str, kind: str, before: bytes) -> None:
    plain = encoded(STORED, "JPEG")
    assert plain[2:4] == b"\xff\xe0"  # JFIF's segment, up to byte 20
    for at in (2, 20):
        assert orientation(plain[:at] + before + segment(tiff(6, order, kind)) + plain[at:]) == 6


def test_profiles_that_imagemagick_writes_into_png() -> None:
    plain, exif = encoded(STORED, "PNG"), b"Exif\0\0" + tiff(6)
    lines = b"\nexif\n%8d\n%s\n" % (len(exif), exif.hex().encode())
    profile = chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(lines))
    after_header = 8 + 25
    assert orientation(plain[:after_header] + profile + plain[after_header:]) == 6


def test_chunks_of_odd_length_are_filled_up_in_webp() -> None:
    content = with_orientation("WEBP", 6)
    at = content.index(b"EXIF")
    longer = content[:at] + b"odd " + struct.pack("<I", 5) + b"12345\0" + content[at:]
    assert orientation(longer[:4] + struct.pack("<I", len(longer) - 8) + longer[8:]) == 6


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("value", [0, 9, 65535])
def test_values_without_a_meaning_are_upright(kind: str, value: int) -> None:
    assert orientation(with_orientation(kind, value)) == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_images_without_exif_are_upright(kind: str) -> None:
    assert orientation(encoded(STORED, kind)) == 1


@pytest.mark.parametrize("kept", [0, 4, 9, 12, 21])
@pytest.mark.filterwarnings("ignore")  # Pillow's
def test_images_with_broken_exif_are_upright(kept: int) -> None:
    plain = encoded(STORED, "JPEG")
    assert orientation(plain[:2] + segment(tiff(6)[:kept]) + plain[2:]) == 1
    png = encoded(STORED, "PNG")
    assert orientation(png[:33] + chunk(b"eXIf", tiff(6)[:kept]) + png[33:]) == 1


@given(st.sampled_from(["JPEG", "PNG", "WEBP"]), st.integers(0, 400), st.data())
@pytest.mark.filterwarnings("ignore")  # Pillow's
def test_broken_files_are_images_or_an_error(kind: str, length: int, draws: st.DataObject) -> None:
    content = bytearray(with_orientation(kind, 6)[:length])
    for _ in range(3 if content else 0):
        content[draws.draw(st.integers(0, len(content) - 1))] = draws.draw(st.integers(0, 255))
    try:
        assert decode(bytes(content), 1000, "it").ndim == 3
    except UserError as error:
        assert "\n" not in str(error)
