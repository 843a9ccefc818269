import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmjax.config import resolve, to_dict
from mmjax.evaluate import write, write_report
from mmjax.evaluate.report import best_evaluation, read_evaluations
from mmjax.files import read_lines
from mmjax.types import Samples, UserError


def make_samples(side: int = 31, seed: int = 0) -> Samples:
    rng = np.random.default_rng(seed)
    rows = {name: rng.integers(0, 256, (3, side, side, 3), np.uint8) for name in ("generated", "original")}
    return Samples(["a <script>alert(1)</script> ring", "ein grüner Kreis", "第三"], rows)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    config_dict = to_dict(resolve({"name": "tiny <one>", "train": {"steps": 30, "best_metric": "scenes/all"}}))
    (tmp_path / "config.json").write_text(json.dumps({"config": config_dict, "versions": {"jax": "0.10.2"}}))
    lines = [{"step": step, "split": "train", "loss": 1 / step} for step in (10, 20, 30)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 40, "spl')
    for step, accuracy in ((9, 0.25), (10, 0.75), (100, 0.5)):
        write(
            tmp_path,
            step,
            {"loss": 1.5, "scenes/all": accuracy, "broken": float("nan")},
            {"samples": make_samples(seed=step)},
        )
    return tmp_path


def test_report_is_complete_and_self_contained(workdir: Path) -> None:
    path = write_report(workdir)
    text = path.read_text(encoding="utf-8")
    assert path == workdir / "report.html"
    assert "<h1>tiny &lt;one&gt;</h1>" in text
    assert "last, step 100" in text and "best, step 10" in text
    assert "<td>scenes/all</td><td>0.5</td><td>0.75</td>" in text
    assert "<td>broken</td><td>not finite</td>" in text
    assert "ein grüner Kreis" in text and "&lt;script&gt;" in text and "<script" not in text
    assert "jax 0.10.2" in text and "&quot;best_metric&quot;: &quot;scenes/all&quot;" in text
    assert text.count("<svg ") == 1
    assert not re.search(r'(src|href)="(?!data:|#)', text) and "@import" not in text and "url(http" not in text


def test_report_names_whom_the_data_are_of(workdir: Path) -> None:
    assert "Training data" not in write_report(workdir).read_text()
    about = json.loads((workdir / "config.json").read_text())
    for data in ({"source": "emoji"}, {"source": "mixture", "mixture": {"a": {"source": "emoji"}}}):
        about["config"]["data"] = data
        (workdir / "config.json").write_text(json.dumps(about))
        page = write_report(workdir).read_text()
        assert page.count("<p>Training data: All emojis designed by OpenMoji") == 1


def test_report_of_time(workdir: Path) -> None:
    assert "<h2>Time" not in write_report(workdir).read_text(encoding="utf-8")
    spent = {"goodput": 0.75, "steps": 5400.0, "compile": 600.0, "lost": 1200.0, "at": 9.0}
    lines = [{"step": 10, "split": "time", "steps": 1.0}, {"step": 20, "split": "time", **spent}]
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write("\n" + "".join(json.dumps(line) + "\n" for line in lines))
    text = write_report(workdir).read_text(encoding="utf-8")
    assert "<h2>Time<small>2:00:00 in all" in text
    assert "<td>training steps</td><td>75.0%</td><td>1:30:00</td>" in text
    assert "<td>lost to restarts</td><td>16.7%</td><td>0:20:00</td>" in text
    assert text.count("<svg ") == 1 and "goodput" not in text  # it is no curve


def test_images_of_the_last_and_of_all_evaluations(workdir: Path) -> None:
    text = write_report(workdir).read_text(encoding="utf-8")
    sources = re.findall(r'<img class=pixels alt="" width=(\d+) height=31 src="data:image/png;base64,([^"]+)"', text)
    images = [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for _, data in sources]
    last = make_samples(seed=100)
    for column in range(3):
        np.testing.assert_array_equal(images[2 * column], last.rows["generated"][column])
        np.testing.assert_array_equal(images[2 * column + 1], last.rows["original"][column])
    assert len(images) == 6 + 4  # then a strip for each evaluation and one of the originals
    np.testing.assert_array_equal(images[6][:, 31:62], make_samples(seed=9).rows["generated"][1])
    np.testing.assert_array_equal(images[9][:, :31], last.rows["original"][0])


def test_large_images_are_not_pixelated(workdir: Path) -> None:
    write(workdir, 200, {}, {"samples": make_samples(side=131)})
    assert 'img alt="" width=131' in write_report(workdir).read_text(encoding="utf-8")


def test_empty_workdir(tmp_path: Path) -> None:
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert tmp_path.name in text and "no step logged yet" in text
    assert "No evaluation yet." in text and "Nothing logged yet." in text and "No samples yet." in text


def test_incomplete_files_are_left_out(workdir: Path) -> None:
    folder = workdir / "evaluation"
    (folder / "300.json").write_text('{"loss": 0.')
    (folder / "100.samples.png").write_bytes((folder / "100.samples.png").read_bytes()[:200])
    (folder / "10.samples.json").write_text("[]")
    (workdir / "config.json").write_text("")
    text = write_report(workdir).read_text(encoding="utf-8")
    assert "Samples<small>step 9" in text
    assert workdir.name in text


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder; name the --workdir of a training"):
        write_report(tmp_path / "nowhere")


def test_invalid_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert list(read_lines(path)) == []
    path.write_bytes(b'{"step": 1}\n\n7\n{"step": \xff\n{"step": 2}')
    assert list(read_lines(path)) == [{"step": 1}, {"step": 2}]


def test_evaluations_are_sorted_and_the_best_is_found(workdir: Path) -> None:
    evaluations = read_evaluations(workdir / "evaluation")
    assert [evaluation.step for evaluation in evaluations] == [9, 10, 100]
    assert best_evaluation(evaluations, "scenes/all").step == 10
    assert best_evaluation(evaluations, "-scenes/all").step == 9
    assert best_evaluation(evaluations, "-loss").step == 100  # all alike
    assert best_evaluation(evaluations, "-broken") is None
    assert best_evaluation([], "-loss") is None


def moving_samples(seed: int) -> Samples:
    """Clips of few colors; nothing moves between their second and their third frame."""
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 256, (50, 3)).astype(np.uint8)
    rows = {name: table[rng.integers(0, 50, (3, 5, 31, 31))] for name in ("generated", "original")}
    for clips in rows.values():
        clips[:, 2] = clips[:, 1]
    return Samples(["one", "two & three", "four"], rows, 8.0)


def test_clips_are_animated(workdir: Path) -> None:
    for step in (200, 300):
        write(workdir, step, {}, {"samples": moving_samples(step)})
    text = write_report(workdir).read_text(encoding="utf-8")
    shown = re.findall(r'<img class=pixels alt="" width=(\d+) height=31 src="data:image/gif;base64,([^"]+)"', text)
    assert [int(width) for width, _ in shown] == [31] * 6 + [93] * 3  # each clip, then the strips
    last = moving_samples(300)
    for i, (_, data) in enumerate(shown[:6]):
        column, row = divmod(i, 2)
        clip = list(last.rows.values())[row][column]
        with Image.open(io.BytesIO(base64.b64decode(data))) as animation:
            assert animation.n_frames == 4 and animation.info["loop"] == 0
            durations = []
            for f, frame in enumerate((0, 1, 3, 4)):
                animation.seek(f)
                durations.append(animation.info["duration"])
                np.testing.assert_array_equal(np.asarray(animation.convert("RGB")), clip[frame])
            assert durations == [120, 250, 130, 120]
    assert "two &amp; three" in text and not re.search(r'(src|href)="(?!data:|#)', text)


def test_incomplete_clips_are_left_out(workdir: Path) -> None:
    write(workdir, 200, {}, {"samples": moving_samples(1)})
    path = workdir / "evaluation" / "200.samples.gif"
    path.write_bytes(path.read_bytes()[:900])
    assert "Samples<small>step 100" in write_report(workdir).read_text(encoding="utf-8")
