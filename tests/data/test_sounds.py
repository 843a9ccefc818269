"""A folder of sounds with captions as a source: batches, draws, and what is masked out."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from made_data import config_dict, tone, write_sounds

from mmjax.config import Config
from mmjax.data import evaluation_batches, load_tokenizer, open_source, read_sound, train_tokenizer
from mmjax.data import training_batches as batches_of
from mmjax.types import Batch, UserError

TOKENIZER = load_tokenizer(train_tokenizer([f"sound {n} caption {i}" for n in range(10) for i in range(2)], 300))


def sounds(root: Path, **fields: Any) -> Config:
    return config_dict("audio_folder", root, **{"audio": {"seconds": 0.2, "bins": 23}, **fields})


def first(config: Config, start: int = 0) -> Batch:
    batches = batches_of(open_source(config.data, True, config.seed), TOKENIZER, config, start)
    batch = next(batches)
    batches.close()  # type: ignore[attr-defined]
    return batch


def test_sounds_are_those_of_the_files(tmp_path: Path) -> None:
    made = {"b.wav": tone(300), "a.flac": tone(900, 0.1), "c.ogg": tone(2000, 0.5)}
    config = sounds(write_sounds(tmp_path, "validation", made))
    source = open_source(config.data, False, 0)
    assert (source.name, source.size) == ("audio_folder", 3)
    assert source.features == config.data.features and tuple(source.features) == ("image", "text")
    assert list(source.all_captions()) == [f"sound {n} caption {i}" for n in range(3) for i in range(2)]
    (batch,) = evaluation_batches(source, TOKENIZER, config)
    assert batch["image"].shape == (5, 23, 20, 1) and batch["image"].dtype == np.float32
    for image, name in zip(batch["image"], made, strict=False):
        np.testing.assert_array_equal(image, read_sound(tmp_path / "validation" / name, seconds=0.2, bins=23))
    assert batch["id"] == [*made, "", ""] and batch["mask"].tolist() == [True] * 3 + [False] * 2
    assert set(batch) == {"image", "text", "mask", "key", "id", "captions"} and not np.any(batch["image"][3:])
    assert batch["captions"][2] == ["sound 2 caption 0", "sound 2 caption 1"]
    assert np.any(batch["text"][3:])  # of a source whose examples all have captions


def test_training_draws_the_part_of_a_long_sound_anew_each_epoch(tmp_path: Path) -> None:
    rising = np.sin(2 * np.pi * np.cumsum(np.linspace(200, 4000, 16_000)) / 16_000)
    config = sounds(write_sounds(tmp_path, "train", {"a.wav": rising}), batch=17)
    batch = first(config)
    rows = batch["image"].mean(2)[..., 0].argmax(1)
    assert len({image.tobytes() for image in batch["image"]}) == 17 and np.ptp(rows) > 5
    np.testing.assert_array_equal(batch["image"], first(config)["image"])
    assert not np.array_equal(batch["image"], first(config, 1)["image"])


def test_sounds_of_no_use_are_masked_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = {"a.wav": tone(300), "b.wav": np.zeros(9000), "c.wav": b"no sound", "d.wav": tone(400, 0.01), "e.wav": b""}
    config = sounds(write_sounds(tmp_path, "validation", made))
    source = open_source(config.data, False, 0)
    with caplog.at_level(logging.WARNING, "mmjax"):
        batch = next(evaluation_batches(source, TOKENIZER, config))
    assert batch["mask"].tolist() == [True, False, False, True, False] and source.num_corrupt == 3
    assert [not np.any(image) for image in batch["image"]] == [not mask for mask in batch["mask"]]
    told = [record.getMessage() for record in caplog.records]
    assert told[0] == "audio_folder: sound b.wav is silent from 0.2 s to 0.4 s and is masked out"
    assert [line.split(": ")[1] for line in told[1:]] == [
        "sound c.wav cannot be read as a sound",
        "sound e.wav cannot be read as a sound",
    ]
    assert all(line.endswith(" and is masked out") and str(tmp_path) not in line for line in told)


def test_channels_and_rates_may_differ(tmp_path: Path) -> None:
    write_sounds(tmp_path, "validation", {"a.wav": tone(500)})
    stereo = np.stack([tone(500, 0.3, 44_100)] * 2, 1)
    soundfile.write(tmp_path / "validation" / "b.wav", stereo, 44_100)
    lines = [json.dumps({"sound": name, "captions": ["x"]}) for name in ("a.wav", "b.wav")]
    (tmp_path / "validation" / "captions.jsonl").write_text("\n".join(lines))
    config = sounds(tmp_path)
    image = next(evaluation_batches(open_source(config.data, False, 0), TOKENIZER, config))["image"]
    assert np.abs(image[0].max(0) - image[1].max(0)).max() < 0.02
    assert np.array_equal(image[0].argmax(0), image[1].argmax(0))


def _lines(*lines: str) -> Callable[[Path], object]:
    return lambda root: (root / "train" / "captions.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize(("breaking", "hint"), [
    (lambda root: (root / "train" / "captions.jsonl").unlink(), r"captions\.jsonl: no such file; .*with sounds and"),
    (_lines(""), r'names no sound; a line is like \{"sound": "name\.wav", "captions": \["what is heard"\]\}'),
    (_lines('{"clip": "a.wav", "captions": ["x"]}'), "line 1: needs a sound and its captions"),
    (_lines('{"sound": "gone.wav", "captions": ["x"]}'), r"names gone\.wav, which is not in"),
])  # fmt: skip
def test_a_broken_folder_is_one_line(breaking: Callable[[Path], object], hint: str, tmp_path: Path) -> None:
    root = write_sounds(tmp_path / "sounds", "train", {"a.wav": tone(300)})
    breaking(root)
    with pytest.raises(UserError, match=hint) as error:
        open_source(sounds(root).data, True, 0)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_sounds_without_captions_are_left_out_with_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_sounds(tmp_path, "train", {"a.wav": tone(300)})
    (root / "train" / "x.wav").write_bytes(b"")
    assert open_source(sounds(root).data, True, 0).size == 1
    assert caplog.records[0].getMessage() == (
        f"{root}/train: 1 sounds have no caption and are left out, the first is x.wav"
    )


def test_without_soundfile(tmp_path: Path) -> None:
    write_sounds(tmp_path, "train", {"a.wav": tone(300)})
    program = """
import sys
sys.modules["soundfile"] = sys.modules["tensorflow"] = None  # importing them raises ImportError
sys.path.insert(0, "tests/data")
from made_data import config_dict
import mmjax.data as data
from mmjax.types import UserError
try:
    data.open_source(config_dict("audio_folder", sys.argv[1]).data, True, 0)
except UserError as error:
    print(error)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    missing = f"{tmp_path}/train/a.wav: soundfile is needed to read it, and not installed; run pip install '.[audio]'"
    assert done.stdout.splitlines() == [missing]


@pytest.mark.parametrize(("fields", "hint"), [
    ({"audio": {"rate": 22_051}}, r"data\.audio\.rate: .*22051"),
    ({"audio": {"rate": 100}}, r"data\.audio\.rate: must be at least 1000"),
    ({"audio": {"seconds": 0.0}}, r"data\.audio\.seconds: must be from 0.1 to 600, not 0"),
    ({"audio": {"bins": 0}}, r"data\.audio\.bins: must be above 0"),
    ({"flip": True}, r"data\.flip: sounds are not mirrored"),
    ({"frames": 3}, r"data\.frames: audio_folder .* 3 "),
])  # fmt: skip
def test_impossible_fields_are_one_line(fields: dict[str, Any], hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        config_dict("audio_folder", "x", **fields)


def test_sounds_do_not_mix_with_images_or_other_features() -> None:
    sound, shapes = {"source": "audio_folder", "root": "x"}, {"source": "scenes"}
    with pytest.raises(UserError, match=r"data\.mixture\.b\.source: scenes .*sounds"):
        config_dict("mixture", size=32, mixture={"a": sound, "b": shapes})
    with pytest.raises(UserError, match=r"data\.mixture\.b\.audio: .*data\.audio"):
        config_dict("mixture", mixture={"a": sound, "b": sound | {"audio": {"bins": 64}}})
    assert config_dict("mixture", mixture={"a": sound, "b": sound}).data.mixture["b"].audio.bins == 128
