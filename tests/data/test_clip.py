"""One clip: which frames are taken of which files, and everything that may be wrong with one."""

import importlib.util
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_data import jpeg, make_image, moving, write_clip
from PIL import Image

from mmjax.data import clip as clip_module
from mmjax.data import read_clip, read_image
from mmjax.data.clip import read_frames
from mmjax.data.folder_dataset import Unusable
from mmjax.types import UserError

KINDS = ["a.mp4", "a.mkv", "a.avi", "a.gif", "folder"]


def taken(path: Path, frames: int, frame_rate: float, place: float) -> list[int]:
    """Which frames of a clip of `moving` are taken: where the bar is in each."""
    clip = read_frames(path, frames, frame_rate, 1, place, lambda image: np.asarray(image))
    yellow = np.abs(clip.astype(int) - (255, 255, 0)).sum(-1) < 150
    columns = [np.flatnonzero(frame.mean(0) > 0.5) for frame in yellow]
    return [int(found[0] // 2) for found in columns]


def write(folder: Path, name: str, frames: int, frame_rate: float = 8.0) -> Path:
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    return write_clip(folder / name, moving(frames), frame_rate, codec)


@pytest.mark.parametrize("name", [*KINDS, "a.ts"])  # where a seek ends behind the place asked for
def test_frames_are_those_shown_at_evenly_spaced_times(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, 23)
    assert taken(path, 7, 8.0, 0.0) == list(range(7))
    assert taken(path, 23, 8.0, 0.5) == list(range(23))
    if name != "folder":  # which has no frame rate of its own
        assert taken(path, 5, 4.0, 0.0) == [0, 2, 4, 6, 8]
        assert taken(path, 5, 16.0, 0.0) == [0, 0, 1, 1, 2]
    assert taken(path, 7, 8.0, 1.0) == list(range(16, 23))
    assert taken(path, 7, 8.0, 0.5) == list(range(8, 15))
    near_the_end = taken(path, 7, 8.0, 0.9)
    assert np.diff(near_the_end).tolist() == [1] * 6 and near_the_end[0] == 15  # of 0 ... 16


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_only_what_is_near_is_decoded(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key frames come every fifth frame."""
    path = write(tmp_path, name, 23)
    decoded = []
    original = clip_module._decoded

    def counting(*arguments):
        for frame in original(*arguments):
            decoded.append(frame)
            yield frame

    monkeypatch.setattr(clip_module, "_decoded", counting)
    assert taken(path, 3, 8.0, 1.0) == [20, 21, 22] and len(decoded) <= 6


def test_a_file_that_cannot_be_sought_in_is_read_from_its_start(tmp_path: Path) -> None:
    path = write(tmp_path, "a.h264", 23, 25.0)  # which has no times at all; 25 frames a second are assumed
    assert taken(path, 3, 25.0, 1.0) == [20, 21, 22]


@pytest.mark.parametrize("frame_rate", [24000 / 1001, 30.0, 12.5])
def test_other_frame_rates_keep_the_time(frame_rate: float, tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", moving(26), frame_rate)
    times = np.arange(5) / 8
    assert taken(path, 5, 8.0, 0.0) == [int(t * frame_rate + 0.1) for t in times]


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "folder"])
def test_the_last_frames_are_read_as_a_image_would_be(name: str, tmp_path: Path) -> None:
    clip = moving(11)
    read = read_clip(write(tmp_path, name, 11), 17, 19, 3, 8.0)
    assert read.shape == (3, 17, 17, 3) and read.dtype == np.float32
    for frame, mine in zip(clip[-3:], read, strict=True):
        frame = frame[:40, :52] if name == "a.mp4" else frame
        Image.fromarray(frame).save(tmp_path / "frame.png")
        np.testing.assert_allclose(
            mine, read_image(tmp_path / "frame.png", 17, 19), atol=0 if name == "folder" else 0.1
        )


def test_frames_of_a_folder_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for i in (0, 2, 9, 10, 11, 100):
        Image.new("RGB", (17, 13), (i, 0, 0)).save(tmp_path / f"frame_{i}.png")
    (tmp_path / "about.txt").write_text("no frame")
    (tmp_path / ".hidden.png").write_text("no frame")
    clip = read_frames(tmp_path, 6, 8.0, 1, 0.5, lambda image: np.asarray(image))
    assert clip[:, 0, 0, 0].tolist() == [0, 2, 9, 10, 11, 100]


@pytest.mark.parametrize(("turn", "quarters"), [((0, 1, -1, 0), -1), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_clips_of_a_turned_telephone_are_upright(turn: tuple[int, ...], quarters: int, tmp_path: Path) -> None:
    """The track header's matrix, ISO/IEC 14496-12 section 8.3.2: (1 0 0 1) there is an image as it is stored."""
    path = write_clip(tmp_path / "a.mp4", np.repeat(make_image(3, 40, 52)[None], 3, axis=0))
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (number << 16 for number in turn)
    assert struct.unpack(">9i", content[at : at + 36])[:5:4] == (1 << 16, 1 << 16)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    clip = read_frames(path, 3, 8.0, 1, 0.5, lambda image: np.asarray(image))
    expected = np.rot90(make_image(3, 40, 52), quarters)
    assert clip.shape[1:] == expected.shape and np.abs(clip[0].astype(int) - expected).mean() < 3


def test_a_file_cut_off_is_used_as_far_as_it_goes(tmp_path: Path) -> None:
    for name, codec in (("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.gif", "")):
        path = write_clip(tmp_path / name, moving(23), 8, codec)
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * 0.8)])
        assert taken(path, 5, 8.0, 0.0) == list(range(5)), name
        with pytest.raises(Unusable, match=r"ends early: it has (\d+) frames at 8 a second, and 23 are needed") as told:
            taken(path, 23, 8.0, 0.5)
        has = int(str(told.value).split("it has ")[1].split()[0])
        assert 5 <= has < 23 and len(taken(path, has, 8.0, 0.5)) == has


@pytest.mark.parametrize("name", KINDS)
def test_a_clip_too_short_tells_how_much_of_it_there_is(name: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, 7)
    with pytest.raises(UserError) as told:
        read_clip(path, 13, 13, 11, 8.0)
    assert str(told.value) == f"{path}: ends early: it has 7 frames at 8 a second, and 11 are needed"


def test_what_is_no_clip_is_one_line(tmp_path: Path) -> None:
    bad = {
        "empty.mp4": b"", "text.mp4": b"no clip at all", "text.gif": b"no clip at all", "empty.gif": b"",
        "cut.mp4": write_clip(tmp_path / "whole.mp4", moving(7)).read_bytes()[:1500], "image.mkv": b"\xff" * 999,
    }  # fmt: skip
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "0.jpg").write_bytes(jpeg(1)[:500])
    for name in (*bad, "folder", "broken"):
        with pytest.raises(UserError, match="cannot be read as a clip: ") as told:
            read_clip(tmp_path / name, 13, 13, 1, 8.0)
        assert str(told.value).startswith(f"{tmp_path / name}: ") and "\n" not in str(told.value), name
    for name in ("none.mp4", "none.gif"):
        with pytest.raises(UserError, match=rf"{name}: no such file; give the path of a clip"):
            read_clip(tmp_path / name, 13)
    Image.new("1", (60_000, 2)).save(tmp_path / "wide.gif")
    with pytest.raises(UserError, match=r"wide\.gif: 60000 x 2 pixels; at most 178 million"):
        read_clip(tmp_path / "wide.gif", 13)


def test_sound_alone_is_no_clip(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(UserError, match=r"a\.mp4: holds no video"):
        read_clip(tmp_path / "a.mp4", 13)


def test_without_pyav_gifs_and_folders_can_be_read(tmp_path: Path) -> None:
    paths = [write(tmp_path, name, 5) for name in ("a.gif", "folder", "a.mp4")]
    program = """
import sys
sys.modules["av"] = None  # importing it raises ImportError
from mmjax.data import read_clip
from mmjax.types import UserError
for path in sys.argv[1:]:
    try:
        print(read_clip(path, 13, 13, 5, 8.0).shape)
    except UserError as error:
        print(error)
"""
    command = [sys.executable, "-c", program, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60)
    first, second, third = done.stdout.splitlines()
    assert first == second == "(5, 13, 13, 3)", done.stderr
    assert third == f"{paths[2]}: PyAV is needed to read it, and not installed; run pip install '.[video]'"
    assert importlib.util.find_spec("av") and clip_module.check_pyav(paths[2]) is None
