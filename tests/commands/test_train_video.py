"""A visual tokenizer of clips by the commands, on a folder with all that may be wrong."""

import json
import re
from pathlib import Path

import av
import numpy as np
from PIL import Image
from runs import Mistake, Run, metrics, noise

CONFIG = "--config=configs/video_tokenizer.py:tiny"


def clip(number: int, frames: int) -> np.ndarray:
    """A square that moves over a plain background, uint8 [f, y, x, 3]."""
    moving = np.full((frames, 40, 48, 3), (30 * number, 255 - 30 * number, 90), np.uint8)
    for f in range(frames):
        moving[f, 10:22, 3 * f : 3 * f + 12] = (250, 240, 20)
    return moving


def write_split(folder: Path, count: int) -> None:
    """Folders of frames, GIF and mp4 in turn, with a caption each."""
    folder.mkdir(parents=True)
    lines = []
    for number in range(count):
        frames, name = clip(number, 7), f"{number}{('', '.gif', '.mp4')[number % 3]}"
        if name.endswith(".mp4"):
            with av.open(str(folder / name), "w") as container:
                stream = container.add_stream("mpeg4", rate=8)
                stream.height, stream.width, stream.pix_fmt = 40, 48, "yuv420p"
                for frame in frames:
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                container.mux(stream.encode())
        elif name.endswith(".gif"):
            first, *others = map(Image.fromarray, frames)
            first.save(folder / name, save_all=True, append_images=others, duration=120)
        else:
            (folder / name).mkdir()
            for f, frame in enumerate(frames):
                Image.fromarray(frame).save(folder / name / f"{f:03d}.png")
        lines.append(json.dumps({"clip": name, "captions": [f"a square moving over kind {number}"]}))
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")


def test_trains_shows_clips_and_tells_what_is_wrong(tmp_path: Path, run: Run, mistake: Mistake) -> None:
    root, workdir = tmp_path / "clips", tmp_path / "run"
    write_split(root / "train", 8)
    write_split(root / "validation", 3)
    (root / "train" / "2.mp4").write_bytes(b"no clip at all")
    for frame in ("004.png", "005.png", "006.png"):
        (root / "train" / "6" / frame).unlink()
    done = run("train", CONFIG, f"--config.data.root={root}", "--workdir", workdir)
    assert "8 examples, 4 steps" in done.stdout and "video_tokenizer: all steps done" in done.stdout
    told = {line.partition("clips_folder: ")[2].partition("; further")[0] for line in noise(done.stderr)}
    assert told == {
        "clip 2.mp4 cannot be read as a clip: Invalid data found when processing input and is masked out",
        "clip 6 ends early: it has 4 frames at 8 a second, and 5 are needed and is masked out",
    }
    rows = metrics(workdir)  # an epoch is one batch of eight, and two of the eight are of no use
    assert [row["corrupt_examples"] for row in rows if row["split"] == "train"] == [2.0] * 4
    evaluations = [row for row in rows if row["split"] == "evaluation"]
    assert [row["step"] for row in evaluations] == [2, 4] and evaluations[-1]["reconstruction/psnr"] > 3
    with Image.open(workdir / "evaluation" / "4.samples.gif") as samples:
        assert samples.size == (3 * 32, 2 * 32) and samples.n_frames > 1
    report = (workdir / "report.html").read_text(encoding="utf-8")
    assert len(re.findall("data:image/gif;base64,", report)) == 3 * 2 + 3 and "moving over kind 2" in report
    (root / "train" / "captions.jsonl").unlink()
    line = mistake("train", CONFIG, f"--config.data.root={root}", "--workdir", tmp_path / "other")
    assert line.startswith(f"{root}/train/captions.jsonl: no such file; data.root must hold a folder for each split")
    assert not (tmp_path / "other").exists()
