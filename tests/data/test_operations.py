"""The tf.data operations beside Pillow, scikit-image and plain arithmetic."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

pytest.importorskip("tensorflow")
import tensorflow as tf
from made_data import encoded, jpeg, picture
from skimage.transform import resize as skimage_resize

from mmjax.data import operations
from mmjax.data.source import Reading

READING = Reading(start=0, stop=None, batch=7, first=0, rows=7, training=True, seed=5, size=31, resize=37, flip=True)
COLOR = Image.fromarray(picture(3))
FORMATS = {
    "jpeg": encoded(COLOR, "JPEG"),
    "grey jpeg": encoded(COLOR.convert("L"), "JPEG"),
    "cmyk jpeg": encoded(COLOR.convert("CMYK"), "JPEG", quality=95),
    "png": encoded(COLOR, "PNG"),
    "grey png": encoded(COLOR.convert("L"), "PNG"),
    "palette png": encoded(COLOR.quantize(61), "PNG"),
    "gif": encoded(COLOR, "GIF"),
    "animated gif": encoded(COLOR, "GIF", save_all=True, append_images=[COLOR.rotate(180), COLOR]),
    "bmp": encoded(COLOR, "BMP"),
    "webp": encoded(COLOR, "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_decodes_as_in_pillow(name: str) -> None:
    seen = operations.decode(tf.constant(FORMATS[name]), 1000).numpy()
    expected = np.asarray(Image.open(io.BytesIO(FORMATS[name])).convert("RGB"))
    assert seen.shape == expected.shape and seen.dtype == np.uint8
    assert np.abs(seen.astype(int) - expected).max() <= (3 if "jpeg" in name else 0)


def test_sixteen_bits_keep_their_high_byte() -> None:
    values = np.arange(17 * 19, dtype=np.uint16).reshape(17, 19) * 199
    seen = operations.decode(tf.constant(encoded(Image.fromarray(values), "PNG")), 1000).numpy()
    assert np.abs(seen.astype(float) - values[..., None] / 257).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_what_is_transparent_becomes_white(kind: str) -> None:
    rgba = np.dstack([picture(3), np.full((41, 53), 255, np.uint8)])
    rgba[:20, :, 3] = 0
    options = {"lossless": True} if kind == "WEBP" else {}
    seen = operations.decode(tf.constant(encoded(Image.fromarray(rgba), kind, **options)), 1000).numpy()
    assert (seen[:20] == 255).all() and np.array_equal(seen[20:], picture(3)[20:])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_pictures_upright_as_in_pillow(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(COLOR, kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"), int)
    decode = tf.function(lambda content: operations.decode(content, 1000))
    assert np.abs(decode(tf.constant(content)).numpy() - expected).max() <= 3


def test_pictures_without_exif_do_not_pass_through_python(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(content: bytes) -> int:
        raise AssertionError("asked for the orientation")

    monkeypatch.setattr(operations.exif, "orientation", slow)
    assert operations.decode(tf.constant(FORMATS["jpeg"]), 1000).shape == (41, 53, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = tf.constant(encoded(COLOR, "JPEG", exif=exif))
    with pytest.raises((AssertionError, tf.errors.OpError), match="asked for"):
        operations.decode(turned, 1000)


def top_down_bmp() -> bytes:
    content = bytearray(FORMATS["bmp"])
    content[22:26] = (-41).to_bytes(4, "little", signed=True)
    return bytes(content)


def test_a_bmp_stored_from_the_top_down_is_no_giant() -> None:
    assert np.array_equal(operations.decode(tf.constant(top_down_bmp()), 1000).numpy(), picture(3)[::-1])


def claims(kind: str, height: int, width: int) -> bytes:
    """A file whose header says a size that its content does not have."""
    content = bytearray(FORMATS[kind])
    if kind == "png":
        content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    elif kind == "gif":
        content[6:10] = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    elif kind == "bmp":
        content[18:26] = width.to_bytes(4, "little") + height.to_bytes(4, "little")
    else:
        at = content.index(b"\xff\xc0") + 5
        content[at : at + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(content)


@pytest.mark.parametrize("kind", ["png", "gif", "bmp", "jpeg"])
@pytest.mark.parametrize(("height", "width"), [(1, 50_000), (50_000, 1), (20_000, 20_000)])
def test_giants_are_refused_by_their_header(kind: str, height: int, width: int) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="picture too large"):
        operations.decode(tf.constant(claims(kind, height, width)), 64)


@pytest.mark.parametrize("name", FORMATS)
def test_truncated_and_corrupt_pictures_raise(name: str) -> None:
    whole = FORMATS[name]
    for broken in (whole[: len(whole) // 5], whole[:11], b"", b"no picture at all", whole[:2] + bytes(len(whole))):
        with pytest.raises(tf.errors.InvalidArgumentError):
            operations.decode(tf.constant(broken), 64)


def test_a_jpeg_is_decoded_smaller_where_the_target_is() -> None:
    content = tf.constant(jpeg(3, height=210, width=330))
    shapes = {short: operations.decode(content, short).shape[0] for short in (26, 27, 52, 53, 105, 106, 211)}
    assert shapes == {26: 27, 27: 53, 52: 53, 53: 105, 105: 105, 106: 210, 211: 210}


@pytest.mark.parametrize(("height", "width"), [(41, 53), (101, 67), (37, 37), (23, 29), (211, 307)])
def test_resize_and_center_crop_agree_with_pillow(height: int, width: int) -> None:
    original = np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)
    seen = operations.resized_crop(tf.constant(original), 37, 31, tf.constant([0.5, 0.5])).numpy()
    short = min(height, width)
    whole = (round(width * 37 / short), round(height * 37 / short))
    resized = np.asarray(Image.fromarray(original).resize(whole, Image.Resampling.BILINEAR), np.float32)
    left, top = (whole[0] - 31) // 2, (whole[1] - 31) // 2
    # Pillow rounds to whole values after each of its two passes.
    assert np.abs(seen - resized[top : top + 31, left : left + 31]).max() <= 1.01


def test_resize_agrees_with_scikit_image_on_a_smooth_picture() -> None:
    original = picture(3, 101, 127)
    seen = operations.resized_crop(tf.constant(original), 101, 101, tf.constant([0.0, 0.0])).numpy()
    assert np.array_equal(seen, original[:, :101])
    seen = operations.resized_crop(tf.constant(original), 47, 47, tf.constant([0.0, 0.0])).numpy()
    expected = skimage_resize(original.astype(float), (47, 59), order=1, anti_aliasing=True)[:, :47]
    assert np.abs(seen - expected)[2:-2, 2:-2].max() < 2


def test_places_reach_both_ends_and_every_offset_alike() -> None:
    columns = np.broadcast_to(np.arange(43, dtype=np.uint8)[None, :, None], (37, 43, 3))
    places = (np.arange(260) + 0.5) / 260
    offsets = [operations.resized_crop(tf.constant(columns), 37, 31, [0.0, p]).numpy()[0, 0, 0] for p in places]
    assert np.array_equal(np.unique(offsets, return_counts=True), [np.arange(13), np.full(13, 20)])
    last = operations.resized_crop(tf.constant(columns), 37, 31, [1.0, 1.0]).numpy()
    assert last[0, 0, 0] == 12


def test_normalize_is_minus_one_to_one() -> None:
    seen = operations.normalize(tf.constant([0, 51, 255], tf.uint8)).numpy()
    np.testing.assert_allclose(seen, [-1.0, -0.6, 1.0], atol=1e-7)
    assert seen.dtype == np.float32


def test_training_is_a_pure_function_of_seed_epoch_and_key() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (61, 71, 3), np.uint8)
    content = tf.constant(encoded(Image.fromarray(noise), "PNG"))

    def crop(seed: int, epoch: int, key: int) -> bytes:
        reading = Reading(**{**vars(READING), "seed": seed})
        epochs, keys = tf.constant(epoch, tf.int64), tf.constant(key, tf.int64)
        return operations.prepare_training(content, epochs, keys, reading).numpy().tobytes()

    calls = [(5, 0, 1), (5, 0, 2), (5, 1, 1), (6, 0, 1), (2**32 - 1, 10**6, 2**62)]
    first = [crop(*call) for call in calls]
    assert first == [crop(*call) for call in calls]
    assert len(set(first)) == len(calls)


def test_half_of_the_training_pictures_are_mirrored_and_no_evaluation_picture() -> None:
    ramp = Image.fromarray(np.broadcast_to(np.arange(0, 222, 6, dtype=np.uint8)[None, :, None], (37, 37, 3)).copy())
    for image in (ramp, ImageOps.mirror(ramp)):
        content = tf.constant(encoded(image, "PNG"))
        epoch = tf.constant(0, tf.int64)
        keys = [tf.constant(key, tf.int64) for key in range(97)]
        crops = [operations.prepare_training(content, epoch, key, READING).numpy() for key in keys]
        rising = [bool(crop[0, 0, 0] < crop[0, -1, 0]) for crop in crops]
        assert 30 < sum(rising) < 67
        unflipped = Reading(**{**vars(READING), "flip": False})
        still = [operations.prepare_training(content, epoch, key, unflipped).numpy() for key in keys[:7]]
        evaluated = operations.prepare_evaluation(content, READING).numpy()
        for crop in (*still, evaluated):
            assert (crop[0, 0, 0] < crop[0, -1, 0]) == (image is ramp)
        expected = np.asarray(image, np.float32)[3:34, 3:34] / 127.5 - 1
        np.testing.assert_allclose(evaluated, expected, atol=1e-6)
        assert len({crop.tobytes() for crop in crops}) == 14  # 7 columns, mirrored or not


@pytest.mark.parametrize("size", [1, 2, 7, 101])
def test_shuffled_index_is_a_permutation_that_differs_by_epoch_and_seed(size: int) -> None:
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        places = range(size)
        epochs = tf.constant(epoch, tf.int64)
        shuffled = [operations.shuffled_index(tf.constant(p, tf.int64), epochs, size, seed) for p in places]
        return tuple(int(index) for index in shuffled)

    orders = {order(*pair) for pair in [(0, 0), (0, 1), (0, 2), (1, 0), (2**32 - 1, 0)]}
    assert all(sorted(order) == list(range(size)) for order in orders)
    assert len(orders) == (5 if size > 5 else len(orders))
