"""Encoding of clips and images: mp4 with PyAV (the extra `video`), GIF and PNG with Pillow."""

import io
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mmjax.types import UserError

MIN_SIDE = 128  # pixels; some encoders refuse smaller clips
HUNDREDTHS = 100  # a GIF's time unit is 1/100 s
MIN_DURATION = 2  # hundredths; browsers show shorter ones for a tenth of a second
COLORS = 256
SAMPLED_PIXELS = 2**18  # of a clip, for choosing a GIF's palette


def to_mp4(clip: UInt8[np.ndarray, "f y x 3"], frame_rate: float) -> bytes:
    """Encodes a clip as mp4: H.264 if there is an encoder for it, else MPEG-4.

    Small clips are upscaled by an integer factor (nearest neighbor) to at least 128 pixels; odd sides are padded by
    repeating the last row or column.

    Args:
        frame_rate: frames a second.

    Raises:
        UserError: if PyAV is missing or cannot encode it, the clip is empty or the frame rate is not above 0.
    """
    _check(clip, frame_rate)
    try:
        import av
        from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
    except ImportError as error:
        raise UserError("mp4: PyAV is needed to write it; run pip install '.[video]', or write a .gif") from error
    clip = _enlarged(clip)
    rate = max(Fraction(frame_rate).limit_denominator(1001), Fraction(1, 1001))
    sharp = {"libx264": {"crf": "16"}, "mpeg4": {"qscale": "2", "flags": "+qscale"}}
    codec = next((name for name in sharp if name in av.codecs_available), None)
    if codec is None:
        raise UserError("mp4: PyAV was built without an encoder for H.264 and MPEG-4; write a .gif")
    buffer = io.BytesIO()
    try:
        with av.open(buffer, "w", format="mp4") as container:
            stream: Any = container.add_stream(codec, rate=rate, options=sharp[codec])
            stream.height, stream.width = clip.shape[1:3]
            stream.pix_fmt = "yuv420p"  # the one pixel format that every player supports
            # Otherwise players guess, each differently.
            context = stream.codec_context
            context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
            context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
            for i, image in enumerate(clip):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
                frame = frame.reformat(
                    format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
                )
                frame.pts, frame.time_base = i, 1 / rate
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    except (av.FFmpegError, OverflowError) as error:  # such as for an unsupported frame rate
        raise UserError(f"mp4: cannot be written: {' '.join(str(error).split())}; write a .gif") from error
    return buffer.getvalue()


def to_gif(clip: UInt8[np.ndarray, "f y x 3"], frame_rate: float) -> bytes:
    """Encodes a clip as a looping GIF of the same size, with one palette of at most 256 colors for all frames.

    Colors are exact if the clip has at most 256.

    Args:
        frame_rate: frames a second; a GIF supports at most 50.

    Raises:
        UserError: if the clip is empty or the frame rate is not above 0.
    """
    _check(clip, frame_rate)
    ends = [int(HUNDREDTHS * (i + 1) / frame_rate) for i in range(len(clip))]
    durations = [10 * max(end - begin, MIN_DURATION) for begin, end in zip([0, *ends], ends, strict=False)]
    return timed_gif(clip, durations)


def timed_gif(clip: UInt8[np.ndarray, "f y x 3"], durations: Sequence[int]) -> bytes:
    """Encodes a clip as a GIF with a duration for each frame, in milliseconds."""
    frames = _indexed(clip)
    buffer = io.BytesIO()
    # Loops forever. Pillow merges consecutive equal frames.
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=list(durations), loop=0)
    return buffer.getvalue()


def to_png(image: UInt8[np.ndarray, "y x 3"]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def _check(clip: UInt8[np.ndarray, "f y x 3"], frame_rate: float) -> None:
    if not clip.size:
        raise UserError(f"a clip of {len(clip)} frames of {clip.shape[1]} x {clip.shape[2]} pixels cannot be encoded")
    if not (math.isfinite(frame_rate) and frame_rate > 0):
        raise UserError(f"frame rate: must be above 0 frames a second, not {frame_rate:g}")


def _enlarged(clip: UInt8[np.ndarray, "f y x 3"]) -> UInt8[np.ndarray, "f y2 x2 3"]:
    """Upscales to at least 128 pixels a side by an integer factor, and pads to even sides by edge values."""
    factor = max(1, math.ceil(MIN_SIDE / min(clip.shape[1:3])))
    clip = clip.repeat(factor, axis=1).repeat(factor, axis=2)
    return np.pad(clip, ((0, 0), (0, clip.shape[1] % 2), (0, clip.shape[2] % 2), (0, 0)), mode="edge")


def _indexed(clip: UInt8[np.ndarray, "f y x 3"]) -> list[Image.Image]:
    """The frames as images with a common palette: the clip's own colors, or the nearest."""
    packed = clip.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    colors, indices = np.unique(packed, return_inverse=True)
    if len(colors) <= COLORS:
        frames = [Image.fromarray(frame) for frame in indices.reshape(packed.shape).astype(np.uint8)]
        palette = np.stack([colors >> 16, colors >> 8 & 255, colors & 255], axis=1).astype(np.uint8)
        for frame in frames:
            frame.putpalette(palette.tobytes())
        return frames
    pixels = clip.reshape(-1, 3)[:: max(1, clip.size // 3 // SAMPLED_PIXELS)]
    chosen = Image.fromarray(pixels[None]).quantize(COLORS, Image.Quantize.MEDIANCUT)
    return [Image.fromarray(frame).quantize(palette=chosen, dither=Image.Dither.NONE) for frame in clip]
