import errno
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmjax.evaluate import runner
from mmjax.evaluate.losses import losses
from mmjax.evaluate.reconstruction import reconstruction
from mmjax.evaluate.samples import samples
from mmjax.types import Samples, UserError

EVALUATORS = {"samples": samples(3), "losses": losses, "reconstruction": reconstruction}


def make_samples(count: int = 3) -> Samples:
    rng = np.random.default_rng(0)
    rows = {name: rng.integers(0, 256, (count, 5, 7, 3), np.uint8) for name in ("generated", "original")}
    return Samples([f"prompt {i} <ü>" for i in range(count)], rows)


def test_one_pass_equals_single_evaluators(evaluation_set) -> None:
    data = evaluation_set(13)
    metrics, drawn = runner.run(EVALUATORS, data.predict, data.batches)
    assert data.calls == 3
    alone = dict(losses(data.predict, data.batches)) | dict(reconstruction(data.predict, data.batches))
    assert metrics == alone
    assert drawn["samples"].prompts == ["caption 0", "caption 1", "caption 2"]


@pytest.mark.parametrize("batches_kept", [0, 1, 2])
def test_small_cache_gives_the_same(evaluation_set, monkeypatch, batches_kept: int) -> None:
    data = evaluation_set(17)
    expected = runner.run(EVALUATORS, data.predict, data.batches)[0]
    batch = next(data.batches())
    size = sum(value.nbytes for value in (*batch.values(), *data.predict(batch).values()) if hasattr(value, "nbytes"))
    monkeypatch.setattr(runner, "KEPT_BYTES", batches_kept * size + 100)
    data.calls = 0
    assert runner.run(EVALUATORS, data.predict, data.batches)[0] == expected
    assert data.calls == {0: 1 + 4 + 4, 1: 4 + 3, 2: 4 + 2}[batches_kept]


def test_duplicate_names(evaluation_set) -> None:
    data = evaluation_set(3)
    with pytest.raises(ValueError, match="evaluator b: loss was yielded before"):
        runner.run({"a": losses, "b": losses}, data.predict, data.batches)


def test_files(tmp_path: Path) -> None:
    given = make_samples()
    runner.write(tmp_path, 70, {"loss": 0.5, "bad": math.nan, "worse": math.inf}, {"samples": given, "a/../b": given})
    folder = tmp_path / "evaluation"
    assert sorted(path.name for path in folder.iterdir()) == [
        "70.a----b.json",
        "70.a----b.png",
        "70.json",
        "70.samples.json",
        "70.samples.png",
    ]
    assert json.loads((folder / "70.json").read_text()) == {"loss": 0.5, "bad": None, "worse": None}
    about = json.loads((folder / "70.samples.json").read_text(encoding="utf-8"))
    assert about == {"prompts": given.prompts, "rows": ["generated", "original"], "cell": [5, 7]}
    image = np.asarray(Image.open(folder / "70.samples.png"))
    assert image.shape == (10, 21, 3)
    np.testing.assert_array_equal(image[5:10, 7:14], given.rows["original"][1])


def test_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch) -> None:
    runner.write(tmp_path, 70, {"loss": 0.5}, {})

    def full(self: Path, content: bytes) -> int:
        self.open("wb").close()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match=r"70\.json: cannot be written: No space left on device"):
        runner.write(tmp_path, 70, {"loss": 0.4}, {})
    assert [path.name for path in (tmp_path / "evaluation").iterdir()] == ["70.json"]
    assert json.loads((tmp_path / "evaluation" / "70.json").read_text()) == {"loss": 0.5}


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "evaluation").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot be written"):
        runner.write(tmp_path, 1, {"loss": 0.4}, {})


def test_clips_are_an_animated_grid(tmp_path: Path) -> None:
    colors = np.random.default_rng(0).integers(0, 256, (200, 3)).astype(np.uint8)
    chosen = np.random.default_rng(1).integers(0, 200, (2, 3, 11, 5, 7))
    rows = {"generated": colors[chosen[0]], "original": colors[chosen[1]]}
    runner.write(tmp_path, 70, {}, {"samples": Samples(["a", "b", "c"], rows, 12.5)})
    folder = tmp_path / "evaluation"
    assert sorted(path.name for path in folder.iterdir()) == ["70.json", "70.samples.gif", "70.samples.json"]
    about = json.loads((folder / "70.samples.json").read_text(encoding="utf-8"))
    assert about == {"prompts": ["a", "b", "c"], "rows": ["generated", "original"], "cell": [5, 7], "frames": 11}
    with Image.open(folder / "70.samples.gif") as animation:
        assert animation.size == (21, 10) and animation.n_frames == 11 and animation.info["loop"] == 0
        for f in range(11):
            animation.seek(f)
            image = np.asarray(animation.convert("RGB"))
            assert animation.info["duration"] == 80
            np.testing.assert_array_equal(image[5:, 7:14], rows["original"][1, f])
