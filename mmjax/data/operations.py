"""tf.data operations: encoded pictures to float32, one set for training and one for evaluation, and reading in batches.

Everything random is a pure function of (seed, epoch, key of the example), so that any step can be made again.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np

from mmjax.data import exif
from mmjax.data.picture import MOST_PIXELS, SIDE_LIMIT
from mmjax.data.source import Reading, Rows
from mmjax.types import UserError

Tensor = Any  # tf.Tensor and Dataset, unknown here: TensorFlow is imported only where it is used
Dataset = Any

IN_PARALLEL = 16  # pictures decoded at a time
EXIF_WITHIN = 4096  # bytes
ENDLESS = 2**62


@functools.cache
def tensorflow() -> ModuleType:
    """TensorFlow, kept away from the accelerators, which are JAX's."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault(
        "TF_ENABLE_ONEDNN_OPTS", "0"
    )  # TensorFlow tells on stderr where it is on; nothing here uses it
    import tensorflow

    for kind in ("GPU", "TPU"):
        with contextlib.suppress(RuntimeError, ValueError):  # in use already, by whoever imported TensorFlow before
            tensorflow.config.set_visible_devices([], kind)
    return tensorflow


def as_written(function: Callable[..., Any]) -> Callable[..., Any]:
    """For functions handed to tf.data: spares them AutoGraph, which takes long to rewrite what needs no rewriting."""
    return tensorflow().autograph.experimental.do_not_convert(function)


def decode(encoded: Tensor, short_side: int) -> Tensor:
    """An encoded JPEG, PNG, GIF (first frame), BMP or WebP picture as RGB uint8 [y, x, 3].

    Upright as its EXIF says. Grey, CMYK, palette and 16-bit pictures become RGB; what is transparent white, in a GIF
    black. A JPEG may come out at a half, quarter or eighth of its size, as long as its short side stays at least
    `short_side`.

    Raises (while the graph runs):
        tf.errors.InvalidArgumentError: for anything broken, of another format, or too large to decode.
    """
    tf = tensorflow()
    starts = tf.strings.substr(encoded, 0, 2)
    jpeg, png, webp = (tf.equal(starts, start) for start in (b"\xff\xd8", b"\x89P", b"RI"))
    shape = tf.cond(
        jpeg, lambda: tf.io.extract_jpeg_shape(encoded, output_type=tf.int64)[:2], lambda: _header_shape(encoded)
    )
    allowed = tf.logical_and(tf.reduce_max(shape) < SIDE_LIMIT, tf.reduce_prod(shape) <= MOST_PIXELS)
    with tf.control_dependencies([tf.debugging.Assert(allowed, ["picture too large"])]):
        encoded = tf.identity(encoded)
    times = tf.reduce_min(shape) // short_side
    ratio = tf.reduce_sum(tf.cast(times >= tf.constant([2, 4, 8], tf.int64), tf.int32))
    jpegs = [functools.partial(tf.io.decode_jpeg, encoded, channels=3, ratio=r) for r in (1, 2, 4, 8)]
    stored = tf.case(
        [
            (jpeg, lambda: tf.switch_case(ratio, jpegs)),
            (png, lambda: _on_white(tf.io.decode_png(encoded, channels=4))),
            (webp, lambda: _decode_webp(encoded)),
        ],
        default=lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
        exclusive=True,
    )
    # In a JPEG, EXIF comes first of all; most have none and are spared the way through Python.
    first = tf.strings.substr(encoded, 0, EXIF_WITHIN)
    plain = tf.logical_and(jpeg, tf.logical_not(tf.strings.regex_full_match(first, r"(?s)\C*Exif\x00\x00\C*")))
    return tf.cond(plain, lambda: stored, lambda: _upright(stored, encoded))


def _upright(picture: Tensor, encoded: Tensor) -> Tensor:
    tf = tensorflow()

    def orientation(content: Any) -> np.int32:  # bytes in a graph, an array of them outside of one
        return np.int32(exif.orientation(content if isinstance(content, bytes) else content.item()))

    told = tf.ensure_shape(tf.numpy_function(orientation, [encoded], tf.int32, stateful=False), [])

    def turned(orientation: int) -> Tensor:
        upright = tf.transpose(picture, [1, 0, 2]) if exif.is_transposed(orientation) else picture
        return tf.reverse(upright, np.flatnonzero(exif.flips(orientation)))

    return tf.switch_case(told - 1, [functools.partial(turned, orientation) for orientation in range(1, 9)])


def _decode_webp(encoded: Tensor) -> Tensor:
    tf = tensorflow()
    colors = tf.io.decode_image(encoded, expand_animations=False)  # as many channels as there are, others are refused
    return tf.cond(tf.equal(tf.shape(colors)[2], 4), lambda: _on_white(colors), lambda: colors)


def _on_white(colors: Tensor) -> Tensor:
    tf = tensorflow()

    def on_white() -> Tensor:
        rgb, alpha = tf.cast(colors[..., :3], tf.float32), tf.cast(colors[..., 3:], tf.float32) / 255
        return tf.cast(tf.round(rgb * alpha + 255 * (1 - alpha)), tf.uint8)

    return tf.cond(tf.reduce_all(colors[..., 3] == 255), lambda: colors[..., :3], on_white)


def _header_shape(encoded: Tensor) -> Tensor:
    """Rows and columns that the header of a PNG, GIF or BMP tells; [1, 1] for WebP, which is at most 16,383 pixels."""
    tf = tensorflow()
    header = tf.strings.substr(tf.strings.join([encoded, b"\0" * 26]), 0, 26)  # some files end before
    values = tf.cast(tf.io.decode_raw(header, tf.uint8), tf.int64)

    def pair(at: int, *powers: int) -> Tensor:  # columns come first in all three
        rows_and_columns = tf.reverse(tf.reshape(values[at : at + 2 * len(powers)], [2, len(powers)]), [0])
        return tf.reduce_sum(rows_and_columns * tf.constant([256**power for power in powers], tf.int64), axis=1)

    png, gif, bmp = pair(16, 3, 2, 1, 0), pair(6, 0, 1), pair(18, 0, 1, 2, 3)
    bmp = tf.where(bmp >= 2**31, 2**32 - bmp, bmp)  # stored from the top down, it has a negative height
    starts = tf.strings.substr(header, 0, 2)
    shape = tf.ones([2], tf.int64)
    for start, told in ((b"\x89P", png), (b"GI", gif), (b"BM", bmp)):
        shape = tf.where(tf.equal(starts, start), told, shape)
    return shape


def resized_crop(picture: Tensor, resize: int, size: int, place: Tensor) -> Tensor:
    """Brings the short side to `resize` pixels, bilinear with antialias, and crops: float32 [size, size, 3], 0 to 255.

    Only the crop is computed, which gives the values that resizing the whole picture and cropping would.

    Args:
        picture: uint8 [y, x, 3].
        place: of the crop down and across, [2], from 0 (first rows, first columns) to 1 (last).
    """
    tf = tensorflow()
    shape = tf.cast(tf.shape(picture)[:2], tf.float64)
    whole = tf.round(shape * resize / tf.reduce_min(shape))
    room = whole - size
    # Each of the whole numbers 0 ... room for an equal share of the places; 0.5 gives room // 2, the center.
    corner = tf.maximum(tf.math.ceil(tf.cast(place, tf.float64) * (room + 1)) - 1, 0)
    crop = tf.raw_ops.ScaleAndTranslate(
        images=picture[tf.newaxis],
        size=[size, size],
        scale=tf.cast(whole / shape, tf.float32),
        translation=-tf.cast(corner, tf.float32),
        kernel_type="triangle",
        antialias=True,
    )[0]
    return tf.ensure_shape(crop, [size, size, 3])


def normalize(picture: Tensor) -> Tensor:
    """Values from 0 to 255 as float32 from -1 (black) to 1 (white)."""
    tf = tensorflow()
    # Resizing rounds a little beyond the ends.
    return tf.clip_by_value(tf.cast(picture, tf.float32) / 127.5 - 1, -1, 1)


def prepare_training(encoded: Tensor, epoch: Tensor, key: Tensor, reading: Reading) -> Tensor:
    """Decodes, resizes, crops at a random place and mirrors half of the pictures where the recipe says so."""
    tf = tensorflow()
    seed = tf.random.experimental.stateless_fold_in(tf.stack([tf.constant(reading.seed, tf.int64), key]), epoch)
    down, across, mirror = tf.unstack(tf.random.stateless_uniform([3], seed))
    crop = resized_crop(decode(encoded, reading.resize), reading.resize, reading.size, tf.stack([down, across]))
    if reading.flip:
        crop = tf.cond(mirror < 0.5, lambda: tf.reverse(crop, [1]), lambda: crop)
    return normalize(crop)


def prepare_evaluation(encoded: Tensor, reading: Reading) -> Tensor:
    """Decodes, resizes and crops the center."""
    crop = resized_crop(decode(encoded, reading.resize), reading.resize, reading.size, [0.5, 0.5])
    return normalize(crop)


def is_mine(position: Tensor, reading: Reading) -> Tensor:
    """Whether this process reads the position."""
    row = position % reading.batch
    return tensorflow().logical_and(row >= reading.first, row < reading.first + reading.rows)


def my_positions(reading: Reading) -> Dataset:
    """The positions that this process reads, int64, in order."""
    tf = tensorflow()
    rows, start = reading.rows, reading.start + reading.first
    positions = tf.data.Dataset.range(ENDLESS).map(as_written(lambda n: start + n // rows * reading.batch + n % rows))
    return positions if reading.stop is None else positions.take_while(as_written(lambda p: p < reading.stop))


def read_records(
    records: Dataset, encoded: Callable[[dict[str, Any]], Tensor], reading: Reading, name: str
) -> Iterator[Rows]:
    """Decodes and batches the records that a process reads.

    A picture that cannot be read becomes zeros with mask False in its place, so that a step's batch follows from
    nothing but the step.

    Args:
        records: dicts of epoch int64, key int64, id string and captions string [n], and whatever `encoded` needs.
        encoded: gives the encoded picture of a record; may fail as decoding may.
        name: of the source, for messages.

    Raises:
        UserError: where the records themselves cannot be read.
    """
    tf = tensorflow()
    size = reading.size

    def prepare(record: dict[str, Any]) -> tuple[Tensor, Tensor]:
        if reading.training:
            return prepare_training(encoded(record), record["epoch"], record["key"], reading), True
        return prepare_evaluation(encoded(record), reading), True

    @as_written
    def with_image(record: dict[str, Any]) -> Dataset:
        image = tf.data.Dataset.from_tensors(record).map(prepare).ignore_errors()
        nothing = tf.data.Dataset.from_tensors(0).map(lambda _: (tf.zeros([size, size, 3]), False))
        rest = {name: record[name] for name in ("epoch", "key", "id", "captions")}
        number = tf.size(record["captions"])
        either = image.concatenate(nothing).take(1)
        return either.map(lambda image, mask: rest | {"image": image, "mask": mask, "number": number})

    options = tf.data.Options()
    options.deterministic = True
    rows = records.interleave(
        with_image, cycle_length=IN_PARALLEL, block_length=1, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    iterator = rows.padded_batch(reading.rows).prefetch(2).with_options(options).as_numpy_iterator()
    for batch in records_of(name, iterator):
        texts = zip(batch.pop("captions"), batch.pop("number"), strict=True)
        captions = [[text.decode("utf-8", "replace") for text in row[:number]] for row, number in texts]
        ids = [text.decode("utf-8", "replace") for text in batch.pop("id")]
        yield batch | {"id": ids, "captions": captions}


def records_of(name: str, iterator: Iterator[Any]) -> Iterator[Any]:
    """Passes on what a tf.data iterator gives; where its files cannot be read, a UserError naming the source."""
    cannot_read = tensorflow().errors.OpError
    try:
        yield from iterator
    except cannot_read as error:
        reason = " ".join(str(error.message).split())
        raise UserError(f"data.source {name}: cannot be read: {reason}; is the data set complete?") from error


def shuffled_index(place: Tensor, epoch: Tensor, size: int, seed: int) -> Tensor:
    """The example at a place of an epoch: a permutation of the numbers below `size`, without keeping it in memory."""
    tf = tensorflow()
    seeds = tf.stack([tf.constant(seed, tf.int64), epoch])
    return tf.random.experimental.index_shuffle(place, seeds, np.int64(size - 1))
