"""A folder of clips as a source: batches of clips, and everything that may be wrong with one."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_data import config_dict, make_image, moving, write_clips
from PIL import Image

from mmjax.config import Config
from mmjax.data import evaluation_batches, load_tokenizer, open_source, train_tokenizer, training_batches
from mmjax.data.folder_dataset import WORKERS, in_parallel
from mmjax.types import UserError

TOKENIZER = load_tokenizer(train_tokenizer([f"clip {n} caption {i}" for n in range(10) for i in range(2)], 300))


def clips_config(root: Path, **fields: object) -> Config:
    return config_dict("clips_folder", root, **{"frames": 3, "frame_rate": 8.0, **fields})


def test_clips_are_those_of_the_files(tmp_path: Path) -> None:
    made = {f"{number}": moving(7, number, 16, 16) for number in (5, 1, 3)}
    root = write_clips(tmp_path, "validation", made)
    source = open_source(clips_config(root).data, False, 0)
    assert source.name == "clips_folder" and source.size == 3 and tuple(source.features) == ("image", "text")
    assert list(source.all_captions()) == [f"clip {n} caption {i}" for n in range(3) for i in range(2)]
    batch = next(evaluation_batches(source, TOKENIZER, clips_config(root, resize=16)))
    middle = np.stack([clip[2:5] for clip in made.values()]).astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(batch["image"][:3], middle, atol=1e-6)
    assert batch["image"].shape == (5, 3, 16, 16, 3) and batch["image"].dtype == np.float32
    assert (batch["image"][3:] == 0).all() and batch["mask"].tolist() == [True] * 3 + [False] * 2
    assert batch["id"] == ["5", "1", "3", "", ""] and set(batch) == {"image", "text", "mask", "key", "id", "captions"}
    assert batch["captions"][2] == ["clip 2 caption 0", "clip 2 caption 1"]


def test_one_frame_is_a_image(tmp_path: Path) -> None:
    root = write_clips(tmp_path, "train", {"a.gif": moving(5), "b": moving(5)})
    config = clips_config(root, frames=1)
    assert next(training_batches(open_source(config.data, True, 0), TOKENIZER, config))["image"].shape == (5, 16, 16, 3)


def test_training_draws_the_start_the_crop_and_the_mirroring_of_a_clip_once_for_all_its_frames(tmp_path: Path) -> None:
    """Frame f of the only clip is all of color f, with a gradient along x that tells the place and the mirroring."""
    frames = np.stack([np.tile(np.arange(40, dtype=np.uint8)[None, :, None], (24, 1, 3)) for _ in range(11)])
    frames[..., 2] = 20 * np.arange(11)[:, None, None]
    config = clips_config(write_clips(tmp_path, "train", {"a": frames}), size=16, resize=24, flip=True, batch=97)
    clips = (next(training_batches(open_source(config.data, True, 0), TOKENIZER, config))["image"] + 1) * 127.5
    colors = np.rint(clips[..., 2] / 20)
    assert (colors == colors[:, :, :1, :1]).all()
    numbers = colors[:, :, 0, 0]
    assert (np.diff(numbers) == 1).all() and set(numbers[:, 0]) == set(range(9))
    lefts = np.rint(clips[:, :, 0, :, 0])
    assert (lefts == lefts[:, :1]).all()
    mirrored = lefts[:, 0, 0] > lefts[:, 0, -1]
    assert 30 < mirrored.sum() < 67
    assert set(lefts[:, 0].min(-1)) == set(range(25))
    again = next(training_batches(open_source(config.data, True, 0), TOKENIZER, config))["image"]
    np.testing.assert_array_equal((again + 1) * 127.5, clips)


def test_clips_of_no_use_are_masked_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = {"a": moving(7), "b.gif": moving(2), "c.mp4": b"no clip", "d.gif": moving(3), "e.mp4": b""}
    config = clips_config(write_clips(tmp_path, "validation", made))
    source = open_source(config.data, False, 0)
    with caplog.at_level(logging.WARNING, "mmjax"):
        batch = next(evaluation_batches(source, TOKENIZER, config))
    assert batch["mask"].tolist() == [True, False, False, True, False] and source.num_corrupt == 3
    assert [(image == 0).all() for image in batch["image"]] == [not mask for mask in batch["mask"]]
    invalid = "cannot be read as a clip: Invalid data found when processing input"
    assert [record.getMessage() for record in caplog.records] == [
        "clips_folder: clip b.gif ends early: it has 2 frames at 8 a second, and 3 are needed and is masked out",
        f"clips_folder: clip c.mp4 {invalid} and is masked out",
        f"clips_folder: clip e.mp4 {invalid} and is masked out",
    ]


def test_clips_in_folders_and_named_twice(tmp_path: Path) -> None:
    root = write_clips(tmp_path, "train", {"inner": moving(3)})
    write_clips(tmp_path / "train" / "more", "deep", {"a.gif": moving(3)})
    (tmp_path / "train" / "more" / "deep" / "captions.jsonl").unlink()
    lines = [{"clip": "more/deep/a.gif", "captions": ["one"]}, {"clip": "inner", "captions": ["two", "three"]},
             {"clip": "more/deep/a.gif", "captions": ["four"], "license": "CC0"}]  # fmt: skip
    (tmp_path / "train" / "captions.jsonl").write_text("\ufeff" + "\n\n".join(map(json.dumps, lines)), "utf-8")
    config = clips_config(root)
    source = open_source(config.data, True, 0)
    assert source.size == 2 and list(source.all_captions()) == ["one", "four", "two", "three"]
    assert next(training_batches(source, TOKENIZER, config))["mask"].all()


def test_clips_without_captions_are_left_out_with_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_clips(tmp_path, "train", {"a": moving(3)})
    for name in ("y.gif", "x.mp4"):
        (root / "train" / name).write_bytes(b"")
    (root / "train" / ".DS_Store").write_bytes(b"")
    assert open_source(clips_config(root).data, True, 0).size == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"{root}/train: 2 clips have no caption and are left out, the first is x.mp4"
    ]


def _lines(*lines: str) -> Callable[[Path], object]:
    return lambda root: (root / "train" / "captions.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize(("breaking", "hint"), [
    (lambda root: os.rename(root, root.with_name("x")), r"clips/train: no such folder; data\.root must hold a folder"),
    (lambda root: (root / "train" / "captions.jsonl").unlink(), r"captions\.jsonl: no such file; data\.root must hold"),
    (lambda root: (root / "train" / "captions.jsonl").write_bytes(b"\xff\xfe\xfa"), "cannot be read as UTF-8 text"),
    (_lines(""), r"names no clip; a line is like \{"),
    (_lines('{"clip": "a", "captions": ["x"]}', '{"clip": "a", "cap'), r"line 2: not JSON \(Unterminated .*a line is"),
    (_lines("[]"), "line 1: needs a clip and its captions"),
    (_lines('{"clip": "a", "captions": []}'), "line 1: needs a clip and its captions"),
    (_lines('{"clip": "a", "captions": "text"}'), "line 1: needs a clip and its captions"),
    (_lines('{"grad_clip_norm": 7, "captions": ["x"]}'), "line 1: needs a clip and its captions"),
    (_lines('{"clip": "a", "captions": ["x", 7]}'), "line 1: the captions of a must be texts"),
    (_lines('{"clip": "gone.mp4", "captions": ["x"]}'), r"names gone\.mp4, which is not in .*add it or take out its"),
    (_lines('{"clip": "a/gone.mp4", "captions": ["x"]}'), r"names a/gone\.mp4, which is not in"),
])  # fmt: skip
def test_a_broken_folder_is_one_line(breaking: Callable[[Path], object], hint: str, tmp_path: Path) -> None:
    root = write_clips(tmp_path / "clips", "train", {"a": moving(3)})
    breaking(root)
    with pytest.raises(UserError, match=hint) as error:
        open_source(clips_config(root).data, True, 0)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_without_pyav_and_tensorflow(tmp_path: Path) -> None:
    """GIFs and folders of frames need neither; a film is told of before anything is read."""
    write_clips(tmp_path, "train", {"a": moving(3), "b.gif": moving(3)})
    write_clips(tmp_path, "validation", {"a": moving(3), "b.mp4": b""})
    program = """
import sys
sys.modules["av"] = sys.modules["tensorflow"] = None  # importing them raises ImportError
sys.path.insert(0, "tests/data")
from made_data import config_dict
import mmjax.data as data
from mmjax.types import UserError
config = config_dict("clips_folder", sys.argv[1], frames=3)
try:
    data.open_source(config.data, False, 0)
except UserError as error:
    print(error)
source = data.open_source(config.data, True, 0)
tokenizer = data.load_tokenizer(data.train_tokenizer(source.all_captions(), 300))
batches = data.training_batches(source, tokenizer, config)
print(next(batches)["image"].shape)
batches.close()
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    missing = f"{tmp_path}/validation/b.mp4: PyAV is needed to read it, and not installed; run pip install '.[video]'"
    assert done.stdout.splitlines() == [missing, "(5, 3, 16, 16, 3)"]


def test_calls_are_made_ahead_in_order_and_not_without_bound() -> None:
    made = []

    def calls():
        for i in range(1000):
            made.append(i)
            yield lambda i=i: i * i

    results = in_parallel(calls())
    assert [next(results) for _ in range(5)] == [0, 1, 4, 9, 16]
    assert len(made) <= 5 + 2 * WORKERS + 1
    results.close()
    assert [*in_parallel(lambda i=i: -i for i in range(3))] == [0, -1, -2]


def test_frames_of_a_folder_may_be_of_several_sizes(tmp_path: Path) -> None:
    root = write_clips(tmp_path, "validation", {"a": moving(3)})
    Image.fromarray(make_image(1, 30, 70)).save(root / "validation" / "a" / "1.png")
    config = clips_config(root)
    assert next(evaluation_batches(open_source(config.data, False, 0), TOKENIZER, config))["mask"][0]
