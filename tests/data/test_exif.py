"""The orientation that EXIF tells, beside what Pillow writes and reads."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_data import encoded, make_image
from PIL import Image

from mmjax.data.exif import flips, is_transposed, orientation

COLOR = Image.fromarray(make_image(3))


def with_orientation(kind: str, value: int, **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x0112], exif[0x0131] = "maker", value, "software"
    return encoded(COLOR, kind, exif=exif, **options)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("value", range(1, 9))
def test_reads_what_pillow_writes(kind: str, value: int) -> None:
    assert orientation(with_orientation(kind, value)) == value


@pytest.mark.parametrize("order", ["<", ">"])
def test_reads_both_orders_of_bytes_and_behind_other_segments(order: str) -> None:
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, 6, 0)
    tiff = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)
    segment = b"\xff\xe1" + struct.pack(">H", 8 + len(tiff)) + b"Exif\0\0" + tiff
    plain = encoded(COLOR, "JPEG")
    assert plain[2:4] == b"\xff\xe0"
    assert orientation(plain[:2] + segment + plain[2:]) == 6
    assert orientation(plain[:20] + segment + plain[20:]) == 6
    assert orientation(plain[:20] + b"\xff\xfe\0\x05abc" + segment + plain[20:]) == 6


def test_chunks_of_odd_length_are_filled_up_in_webp() -> None:
    content = with_orientation("WEBP", 6)
    at = content.index(b"EXIF")
    assert orientation(content[:at] + b"odd " + struct.pack("<I", 5) + b"12345\0" + content[at:]) == 6


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_values_without_a_meaning_are_upright(value: int) -> None:
    assert orientation(with_orientation("JPEG", value)) == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_images_without_exif_are_upright(kind: str) -> None:
    assert orientation(encoded(COLOR, kind)) == 1


@given(st.sampled_from(["JPEG", "PNG", "WEBP"]), st.integers(0, 400), st.data())
def test_broken_files_never_raise(kind: str, length: int, draws: st.DataObject) -> None:
    content = bytearray(with_orientation(kind, 6)[:length])
    for _ in range(3 if content else 0):
        content[draws.draw(st.integers(0, len(content) - 1))] = draws.draw(st.integers(0, 255))
    assert 1 <= orientation(bytes(content)) <= 8


@pytest.mark.parametrize("value", range(1, 9))
def test_the_moves_make_the_stored_image_upright(value: int) -> None:
    # EXIF 2.3: where the stored image's first row and first column are in the upright one.
    first_row, first_column = {
        1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
        5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
    }[value]  # fmt: skip
    stored = np.zeros((5, 7), int)
    stored[0, :], stored[:, 0] = 1, 2
    stored[0, 0] = 3
    upright = stored.T if is_transposed(value) else stored
    upright = np.flip(upright, np.flatnonzero(flips(value)))
    edges = {"top": upright[0], "bottom": upright[-1], "left": upright[:, 0], "right": upright[:, -1]}
    assert set(edges[first_row]) == {1, 3} and set(edges[first_column]) == {2, 3}
