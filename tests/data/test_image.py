import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_data import encoded, make_image
from PIL import Image

from mmjax.data import read_image
from mmjax.data.decoding import decode_examples
from mmjax.data.source import ReadSpec
from mmjax.types import Feature, UserError

COLOR = Image.fromarray(make_image(3, 37, 37))


def read(content: bytes, path: Path, size: int = 37, resize: int = 37) -> np.ndarray:
    path.write_bytes(content)
    return (read_image(path, size, resize) + 1) * 127.5


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "JPEG", "WEBP"])
def test_formats_come_out_as_they_are(kind: str, tmp_path: Path) -> None:
    content = encoded(COLOR, kind)
    seen = read(content, tmp_path / "image")
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.float32)
    assert seen.dtype == np.float32 and seen.shape == (37, 37, 3)
    np.testing.assert_allclose(seen, expected, atol=1e-4)


def test_grey_cmyk_and_palette_become_rgb(tmp_path: Path) -> None:
    grey = read(encoded(COLOR.convert("L"), "PNG"), tmp_path / "grey")
    np.testing.assert_allclose(grey, np.repeat(np.asarray(COLOR.convert("L"), np.float32)[..., None], 3, -1), atol=1e-4)
    cmyk = read(encoded(COLOR.convert("CMYK"), "JPEG", quality=95), tmp_path / "cmyk")
    assert np.abs(cmyk - make_image(3, 37, 37)).max() < 12
    palette = COLOR.quantize(61)
    seen = read(encoded(palette, "PNG"), tmp_path / "palette")
    np.testing.assert_allclose(seen, np.asarray(palette.convert("RGB"), np.float32), atol=1e-4)


def test_sixteen_bits_keep_their_high_byte(tmp_path: Path) -> None:
    values = (np.arange(37 * 37, dtype=np.uint16) * 47).reshape(37, 37)
    seen = read(encoded(Image.fromarray(values), "PNG"), tmp_path / "image")
    assert np.abs(seen - values[..., None] / 257.0).max() <= 1


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    content = encoded(COLOR, "GIF", save_all=True, append_images=[COLOR.rotate(180), COLOR.rotate(90)])
    first = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.float32)
    np.testing.assert_allclose(read(content, tmp_path / "image"), first, atol=1e-4)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_what_is_transparent_becomes_white(mode: str, tmp_path: Path) -> None:
    if mode == "RGBA":
        alpha = np.full((37, 37, 1), 255, np.uint8)
        alpha[:19] = 0
        content = encoded(Image.fromarray(np.concatenate([make_image(3, 37, 37), alpha], -1)), "PNG")
    else:
        index = np.zeros((37, 37), np.uint8)
        index[19:] = 1
        image = Image.fromarray(index, mode="L").convert("P")
        image.putpalette([255, 0, 0, 0, 0, 255])
        content = encoded(image, "PNG", transparency=0)
    seen = read(content, tmp_path / "image")
    assert (seen[:19] == 255).all() and (seen[20:].min(axis=-1) < 200).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image_upright(orientation: int, tmp_path: Path) -> None:
    # EXIF 2.3: what the stored rows and columns are of the upright image.
    turns = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
             5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, 1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
             8: lambda a: np.rot90(a, -1)}  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(turns[orientation](make_image(3, 37, 37)))
    seen = read(encoded(Image.fromarray(stored), "PNG", exif=exif), tmp_path / "image")
    np.testing.assert_allclose(seen, make_image(3, 37, 37), atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(41, 53), (307, 211), (23, 29), (1, 1), (1, 4999), (49_999, 1)])
def test_the_short_side_is_resized_and_the_center_cropped(height: int, width: int, tmp_path: Path) -> None:
    original = Image.fromarray(make_image(3, height, width))
    seen = read(encoded(original, "PNG"), tmp_path / "image", 31, 37)
    assert seen.shape == (31, 31, 3)
    if max(height, width) < 1000:
        side = round(min(height, width) * 31 / 37)  # cut out at whole pixels of the original
        left, top = (width - side) // 2, (height - side) // 2
        expected = original.resize((31, 31), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
        difference = np.abs(seen - np.asarray(expected, np.float32))
        assert difference[1:-1, 1:-1].max() <= 2 and difference.max() < 6


def test_resize_is_by_default_as_in_a_config(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(encoded(Image.fromarray(make_image(3, 101, 127)), "PNG"))
    assert np.array_equal(read_image(path, 28), read_image(str(path), 28, 32))


def as_evaluated(content: bytes, size: int, resize: int) -> np.ndarray:
    batch = {"epoch": np.zeros(1, np.int64), "key": np.zeros(1, np.int64), "example": [content]}
    spec, features = (
        ReadSpec(lambda: iter(()), False, 0, size, resize, False),
        {"image": Feature("image", (size, size, 3))},
    )
    (seen,) = decode_examples(iter([batch]), lambda content: {"image": content}, spec, features)
    assert seen["mask"].all()
    return seen["image"][0]


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_is_bitwise_what_the_evaluation_sees(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(make_image(3, 67, 41)), "JPEG", quality=95, exif=exif)
    (tmp_path / "image").write_bytes(content)
    assert np.array_equal(read_image(tmp_path / "image", 31, 37), as_evaluated(content, 31, 37))


def half_transparent(kind: str) -> bytes:
    if kind == "GIF":
        index = np.repeat(np.uint8([[0], [1]]), 37, axis=1).repeat([18, 19], axis=0)
        image = Image.fromarray(index).convert("P")
        image.putpalette([255, 0, 0, 0, 0, 255])
        return encoded(image, "GIF", transparency=0)
    alpha = np.full((37, 37, 1), 255, np.uint8)
    alpha[:13], alpha[13:23] = 0, 128
    options = {"lossless": True} if kind == "WEBP" else {}
    return encoded(Image.fromarray(np.concatenate([make_image(3, 37, 37), alpha], -1)), kind, **options)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
def test_what_is_half_transparent_becomes_white_and_in_a_gif_black(kind: str, tmp_path: Path) -> None:
    seen = read(half_transparent(kind), tmp_path / "image")
    assert (seen[:13] == (0 if kind == "GIF" else 255)).all()


def wide_header() -> bytes:
    content = bytearray(encoded(COLOR, "PNG"))
    content[16:20] = (50_000).to_bytes(4, "big")
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    return bytes(content)


@pytest.mark.parametrize(("content", "hint"), [
    (encoded(Image.new("L", (50_000, 2)), "PNG"), "50000 x 2 pixels"),
    (wide_header(), "50000 x 37 pixels"),
    (encoded(Image.new("1", (20_000, 20_000)), "PNG"), "million"),
    (encoded(COLOR, "JPEG")[:700], "cannot be read"),
    (encoded(COLOR, "PNG")[:99], "cannot be read"),
    (b"", "not an image"),
    (b"a text", "not an image"),
])  # fmt: skip
def test_what_cannot_be_read_is_one_line(content: bytes, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=hint) as error:
        read_image(path, 31)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_missing_files_and_folders_are_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.png", tmp_path):
        with pytest.raises(UserError, match=str(path)):
            read_image(path, 31)


def test_between_89_and_178_million_pixels_there_is_no_warning(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(encoded(Image.new("1", (10_000, 9_000), 1), "PNG"))
    program = f"from mmjax.data import read_image; print(read_image({str(path)!r}, 7).min())"
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0 and done.stdout.strip() == "1.0", done.stderr
