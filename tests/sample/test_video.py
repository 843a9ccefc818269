import io
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence

from mmjax.sample.video import to_gif, to_mp4
from mmjax.types import UserError


def moving(frames: int, height: int, width: int) -> np.ndarray:
    clip = np.full((frames, height, width, 3), (20, 90, 200), np.uint8)
    for f in range(frames):
        clip[f, 2:9, f : f + 5] = (230, 40, 30)
    return clip


def decoded(content: bytes) -> tuple[np.ndarray, list[float], str]:
    with av.open(io.BytesIO(content)) as container:
        frames = list(container.decode(video=0))
        name = container.streams.video[0].codec_context.name
        return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), [frame.time for frame in frames], name


@pytest.mark.parametrize(("size", "shape", "factor"), [
    ((32, 32), (128, 128), 4),
    ((31, 37), (156, 186), 5),  # by 5, and a row and a column more
    ((128, 131), (128, 132), 1),
    ((17, 300), (136, 2400), 8),
])  # fmt: skip
def test_mp4_round_trip(size: tuple[int, int], shape: tuple[int, int], factor: int) -> None:
    clip = moving(7, *size)
    shown, times, codec = decoded(to_mp4(clip, 8.0))
    assert shown.shape == (7, *shape, 3) and codec == "h264"
    assert times == pytest.approx([i / 8 for i in range(7)])
    inner = factor // 2  # the middle of each enlarged pixel
    back = shown[:, inner::factor, inner::factor][:, : size[0], : size[1]].astype(int)
    assert np.abs(back - clip).mean() < 3 and np.abs(back - clip)[:, 4:7, -5:].max() < 8
    if factor > 1:
        assert np.abs(back - clip).max() < 40


@pytest.mark.parametrize("frame_rate", [23.976, 0.5, 60.0, 1e-3])
def test_mp4_frame_rate(frame_rate: float) -> None:
    times = decoded(to_mp4(moving(5, 16, 16), frame_rate))[1]
    assert times == pytest.approx([i / frame_rate for i in range(5)], rel=1e-4)


def test_mp4_encoder_error() -> None:
    with pytest.raises(UserError, match=r"^mp4: cannot be written: .*; write a \.gif$"):
        to_mp4(moving(3, 16, 16), 1e12)


def test_mp4_falls_back_to_mpeg4(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = moving(5, 32, 32)
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    shown, _, codec = decoded(to_mp4(clip, 8.0))
    assert codec == "mpeg4" and np.abs(shown[:, 2::4, 2::4].astype(int) - clip).mean() < 4
    monkeypatch.setattr(av, "codecs_available", set())
    with pytest.raises(
        UserError, match=r"^mp4: PyAV was built without an encoder for H\.264 and MPEG-4; write a \.gif"
    ):
        to_mp4(clip, 8.0)


def frames_of(content: bytes) -> tuple[np.ndarray, list[int], dict]:
    with Image.open(io.BytesIO(content)) as image:
        information = dict(image.info)
        frames = [(np.asarray(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(image)]
    return np.stack([frame for frame, _ in frames]), [duration for _, duration in frames], information


@pytest.mark.parametrize("colors", [2, 256])
def test_gif_of_few_colors_is_exact_and_loops(colors: int) -> None:
    rng = np.random.default_rng(colors)
    table = rng.integers(0, 256, (colors, 3)).astype(np.uint8)  # some of them closer than Pillow tells apart
    table[1::2] = table[::2] ^ 1
    clip = table[rng.integers(0, colors, (7, 31, 37))]
    shown, durations, information = frames_of(to_gif(clip, 8.0))
    np.testing.assert_array_equal(shown, clip)
    assert information["loop"] == 0 and durations == [120, 130, 120, 130, 120, 130, 120]


def test_gif_of_many_colors_is_close() -> None:
    y, x = np.mgrid[0:64, 0:64]
    clip = np.stack([np.stack([4 * x, 4 * y, np.full_like(x, 60 * f)], -1) for f in range(4)]).astype(np.uint8)
    shown = frames_of(to_gif(clip, 8.0))[0]
    assert shown.shape == clip.shape and np.abs(shown.astype(int) - clip).mean() < 15


def test_gif_frame_rate_is_at_most_fifty() -> None:
    assert frames_of(to_gif(moving(5, 16, 16), 1000.0))[1] == [20] * 5


@pytest.mark.parametrize("write", [to_mp4, to_gif])
def test_invalid_clips_and_frame_rates(write) -> None:
    with pytest.raises(UserError, match=r"^a clip of 0 frames of 16 x 16 pixels cannot be encoded$"):
        write(moving(0, 16, 16), 8.0)
    for rate in (0.0, -3.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match=f"^frame rate: must be above 0 frames a second, not {rate:g}$"):
            write(moving(3, 16, 16), rate)


def test_missing_pyav() -> None:
    program = """
import sys
sys.modules["av"] = None  # importing it raises ImportError
import numpy as np
from mmjax.sample.video import to_gif, to_mp4
print(len(to_gif(np.zeros((2, 5, 7, 3), np.uint8), 8.0)) > 50)
try:
    to_mp4(np.zeros((2, 5, 7, 3), np.uint8), 8.0)
except Exception as error:
    print(error)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60)
    message = "mp4: PyAV is needed to write it; run pip install '.[video]', or write a .gif"
    assert done.stdout.splitlines() == ["True", message], done.stderr
