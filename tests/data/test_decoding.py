"""Preparing images beside Pillow, scikit-image and plain arithmetic."""

import io
import threading
from fractions import Fraction

import numpy as np
import pytest
from made_data import encoded, jpeg, make_image
from PIL import Image, ImageOps
from skimage.transform import resize as skimage_resize

from mmjax.data.decoding import decode_examples
from mmjax.data.image import crop_window, decode, resized_crop
from mmjax.data.source import ReadSpec
from mmjax.data.transforms import draws
from mmjax.types import Feature, UserError

SPEC = ReadSpec(shards=lambda: iter(()), training=True, seed=5, size=31, resize=37, flip=True)
FEATURES = {"image": Feature("image", (31, 31, 3))}
COLOR = Image.fromarray(make_image(3))
FORMATS = {
    "jpeg": encoded(COLOR, "JPEG"),
    "grey jpeg": encoded(COLOR.convert("L"), "JPEG"),
    "cmyk jpeg": encoded(COLOR.convert("CMYK"), "JPEG", quality=95),
    "progressive jpeg": encoded(COLOR, "JPEG", progressive=True),
    "png": encoded(COLOR, "PNG"),
    "palette png": encoded(COLOR.quantize(61), "PNG"),
    "animated gif": encoded(COLOR, "GIF", save_all=True, append_images=[COLOR.rotate(180), COLOR]),
    "bmp": encoded(COLOR, "BMP"),
    "webp": encoded(COLOR, "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_decodes_as_in_pillow(name: str) -> None:
    seen = decode(FORMATS[name], 1000, "it")
    expected = np.asarray(Image.open(io.BytesIO(FORMATS[name])).convert("RGB"))
    assert seen.shape == expected.shape and seen.dtype == np.uint8
    assert np.abs(seen.astype(int) - expected).max() <= (3 if "jpeg" in name else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpegs_are_turned_upright_as_in_pillow(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(COLOR, "JPEG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"), int)
    assert np.abs(decode(content, 1000, "it") - expected).max() <= 3


@pytest.mark.parametrize("name", FORMATS)
def test_truncated_and_corrupt_images_raise(name: str) -> None:
    whole = FORMATS[name]
    for broken in (whole[: len(whole) // 5], whole[:11], b"", b"no image at all", whole[:2] + bytes(len(whole))):
        with pytest.raises(UserError, match="it: "):
            decode(broken, 64, "it")


@pytest.mark.parametrize(("height", "width"), [(1, 50_000), (50_000, 1), (20_000, 20_000)])
def test_giants_are_refused_by_their_header(height: int, width: int) -> None:
    content = bytearray(FORMATS["jpeg"])
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    with pytest.raises(UserError, match=r"an image must be below|too large"):
        decode(bytes(content), 64, "it")


def test_what_is_merely_odd_is_read() -> None:
    content = jpeg(3)
    odd = content[:-2] + bytes(5) + content[-2:]  # bytes that belong to nothing, which libjpeg warns of
    assert np.array_equal(decode(odd, 1000, "it"), decode(content, 1000, "it"))


def test_a_jpeg_is_decoded_smaller_where_the_target_is() -> None:
    content = jpeg(3, height=210, width=330)
    shapes = {short: decode(content, short, "it").shape[0] for short in (26, 27, 52, 53, 105, 106, 211)}
    assert shapes == {26: 27, 27: 53, 52: 53, 53: 105, 105: 105, 106: 210, 211: 210}


@pytest.mark.parametrize(("height", "width"), [(41, 53), (101, 67), (37, 37), (23, 29), (211, 307)])
@pytest.mark.parametrize("place", [(0.5, 0.5), (0.0, 1.0)])
def test_resize_and_crop_are_near_the_antialiased_triangle(height: int, width: int, place: tuple[float, float]) -> None:
    original = np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    seen = resized_crop(original, 37, 31, place).astype(float)
    top, left, rows, columns = crop_window(height, width, (31, 31), Fraction(37, 31), place)
    assert rows == columns == max(round(31 * min(height, width) / 37), 1)
    box = (left, top, left + columns, top + rows)
    expected = np.asarray(Image.fromarray(original).resize((31, 31), Image.Resampling.BILINEAR, box), float)
    plain = np.asarray(Image.fromarray(original).resize((31, 31), Image.Resampling.NEAREST, box), float)
    error = np.abs(seen - expected)[1:-1, 1:-1]
    assert error.mean() <= (0.5 if min(height, width) <= 37 else 0.2 * np.abs(plain - expected).mean())
    assert abs(seen.mean() - expected.mean()) < 1


def test_resize_agrees_with_scikit_image_on_a_smooth_image() -> None:
    original = make_image(3, 101, 127)
    assert np.array_equal(resized_crop(original, 101, 101, (0.0, 0.0)), original[:, :101])
    seen = resized_crop(original, 47, 47, (0.0, 0.0)).astype(float)
    expected = skimage_resize(original[:, :101].astype(float), (47, 47), order=1, anti_aliasing=True)
    assert np.abs(seen - expected)[2:-2, 2:-2].max() < 2


def test_places_reach_both_ends_and_every_offset_alike() -> None:
    columns = np.broadcast_to(np.arange(43, dtype=np.uint8)[None, :, None], (37, 43, 3))
    places = (np.arange(260) + 0.5) / 260
    offsets = [resized_crop(columns, 37, 31, (0.0, p))[0, 0, 0] for p in places]
    assert np.array_equal(np.unique(offsets, return_counts=True), [np.arange(13), np.full(13, 20)])
    assert resized_crop(columns, 37, 31, (1.0, 1.0))[0, 0, 0] == 12


def test_training_is_a_pure_function_of_seed_epoch_and_key() -> None:
    calls = [(5, 0, 1), (5, 0, 2), (5, 1, 1), (6, 0, 1), (2**32 - 1, 10**6, 2**62)]
    drawn = [draws(key, "image") for key in calls]
    draws.cache_clear()
    assert [draws(key, "image") for key in calls] == drawn and len(set(drawn)) == len(calls)


def prepared(content: bytes, key: int, spec: ReadSpec) -> np.ndarray:
    batch = {"epoch": np.zeros(1, np.int64), "key": np.array([key]), "example": [content]}
    (seen,) = decode_examples(iter([batch]), lambda content: {"image": content}, spec, FEATURES)
    assert seen["mask"].all()
    return seen["image"][0]


def test_half_of_the_training_images_are_mirrored_and_no_evaluation_image() -> None:
    ramp = Image.fromarray(np.broadcast_to(np.arange(0, 222, 6, dtype=np.uint8)[None, :, None], (37, 37, 3)).copy())
    unflipped, evaluation = (ReadSpec(**{**vars(SPEC), name: False}) for name in ("flip", "training"))
    for image in (ramp, ImageOps.mirror(ramp)):
        content = encoded(image, "PNG")
        crops = [prepared(content, key, SPEC) for key in range(97)]
        assert 30 < sum(bool(crop[0, 0, 0] < crop[0, -1, 0]) for crop in crops) < 67
        evaluated = prepared(content, 0, evaluation)
        for crop in (*(prepared(content, key, unflipped) for key in range(7)), evaluated):
            assert (crop[0, 0, 0] < crop[0, -1, 0]) == (image is ramp)
        np.testing.assert_allclose(evaluated, np.asarray(image, np.float32)[3:34, 3:34] / 127.5 - 1, atol=1e-6)
        assert len({crop.tobytes() for crop in crops}) == 14  # 7 columns, mirrored or not


def test_batches_come_in_order_whatever_is_ready_first_and_threads_end() -> None:
    others = set(threading.enumerate())
    names = [np.array([7 * k + i for i in range(7)]) for k in range(5)]
    later = threading.Event()

    def read(name: int) -> bytes:
        if name == 3:
            later.wait(5)
        if name == 12:
            later.set()  # of the batch after the one that waits
        if name % 7 == 5:
            raise RuntimeError("cannot be read")
        return FORMATS["png"] if name % 2 else FORMATS["bmp"]

    batches = ({"epoch": np.zeros(7, np.int64), "key": keys, "example": keys} for keys in names)
    seen = list(decode_examples(batches, lambda name: {"image": read(name)}, SPEC, FEATURES))
    assert [batch["key"][0] for batch in seen] == [0, 7, 14, 21, 28]
    for batch in seen:
        assert batch["mask"].tolist() == [True] * 5 + [False, True]
        assert not batch["image"][5].any() and batch["image"][batch["mask"]].any(axis=(1, 2, 3)).all()
        assert batch["image"].dtype == np.float32 and batch["read_seconds"] >= 0
    assert set(threading.enumerate()) <= others
