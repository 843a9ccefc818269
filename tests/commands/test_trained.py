"""What one does with a trained workdir: evaluate, export, generate; and all that may be wrong there."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import Mistake, Run, committed, noise

from mmjax import evaluate
from mmjax.cli import main
from mmjax.commands.generate import read_prompts
from mmjax.train.workdir import read_config
from mmjax.types import UserError

PROMPTS = ("a small red circle left of a large blue square", "a large green triangle above a small red circle")


@pytest.fixture(name="workdir", scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    workdir = tmp_path_factory.mktemp("trained") / "run"
    done = run("train", "--config=configs/scenes_direct.py:tiny", "--workdir", workdir)
    assert noise(done.stderr) == [] and committed(workdir) == [2, 4]
    return workdir


@pytest.fixture(name="model", scope="module")
def exported(workdir: Path, run: Run) -> Path:
    out = workdir.parent / "model"
    done = run("export", "--workdir", workdir, "--out", out)
    assert (done.stdout, done.stderr) == (f"scenes_direct, step 4: {out}\n", "")
    return out


def test_evaluating_again_gives_the_metrics_of_the_training(workdir: Path, tmp_path: Path, run: Run) -> None:
    copy = shutil.copytree(workdir, tmp_path / "copy")
    expected = {step: json.loads((copy / "evaluation" / f"{step}.json").read_text()) for step in (2, 4)}
    shutil.rmtree(copy / "evaluation")
    (copy / "report.html").unlink()
    done = run("evaluate", "--workdir", copy, "--watch")
    assert noise(done.stderr) == [] and done.stdout.count("report: ") == 2
    assert set(expected[4]) == set(evaluate.metric_names(read_config(copy)))
    for step, metrics in expected.items():
        assert json.loads((copy / "evaluation" / f"{step}.json").read_text()) == metrics
        assert f"scenes_direct, step {step}:" in done.stdout
    assert "<html" in (copy / "report.html").read_text() and (copy / "evaluation" / "4.samples.png").exists()


def test_on_other_devices_than_the_training(workdir: Path, tmp_path: Path, run: Run, mistake: Mistake) -> None:
    copy = shutil.copytree(workdir, tmp_path / "copy")
    about = json.loads((copy / "config.json").read_text())
    about["config"]["mesh"].update(data=4, fsdp=2)
    (copy / "config.json").write_text(json.dumps(about))
    out = run("evaluate", "--workdir", copy, "--config.data.evaluation_examples=3").stdout  # on one
    assert "scenes_direct, step 4:" in out
    line = mistake("evaluate", "--workdir", copy, "--config.model.width=64")
    assert line == "--config.model.width: cannot be overridden after training"


def test_one_step_of_a_training_that_counts_epochs(workdir: Path, tmp_path: Path, run: Run) -> None:
    copy = shutil.copytree(workdir, tmp_path / "copy")
    about = json.loads((copy / "config.json").read_text())
    about["config"]["train"].update(steps=0, epochs=1)
    about["config"]["data"]["scenes"]["examples"] = 32  # four steps of eight
    (copy / "config.json").write_text(json.dumps(about))
    for record in copy.glob("checkpoints/*/run"):  # of the config that it was trained with
        shutil.rmtree(record)
    done = run("evaluate", "--workdir", copy, "--watch")
    assert "step 4:" in done.stdout


def test_the_folder_and_the_workdir_draw_the_same(workdir: Path, model: Path, tmp_path: Path, run: Run) -> None:
    (tmp_path / "prompts.txt").write_text(f"\ufeff{PROMPTS[0]}\r\n\n   \n{PROMPTS[1]}  \n", encoding="utf-8")
    one = run("generate", "--model", workdir, "--prompt", *PROMPTS, "--out", tmp_path / "new" / "all.png")
    two = run("generate", "--model", model, "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "{}-{x}.PNG")
    assert one.stdout == f"2 images: {tmp_path / 'new' / 'all.png'}\n" and one.stderr == two.stderr == ""
    with Image.open(tmp_path / "new" / "all.png") as image:
        assert image.size == (64, 32) and image.mode == "RGB"
        side_by_side = np.asarray(image)
    for i in range(2):
        with Image.open(tmp_path / f"{i}-{{x}}.PNG") as image:
            np.testing.assert_array_equal(np.asarray(image), side_by_side[:, 32 * i : 32 * i + 32])


def test_other_forms_of_out(model: Path, tmp_path: Path, mistake: Mistake) -> None:
    command = ("generate", f"--model={model}", "--prompt", PROMPTS[0], "--prompt", PROMPTS[1])
    assert main([*command, f"--out={tmp_path / 'a.webp'}"]) == 0
    with Image.open(tmp_path / "a.webp") as image:
        assert image.format == "WEBP" and image.size == (64, 32)
    line = mistake(*command, "--out=a.gif")
    assert line == "--out a.gif: this model draws images; the name must end in .png, .jpg, .jpeg, .webp"
    line = mistake(*command, f"--out={tmp_path}")
    assert line == f"--out {tmp_path}: must end in .png, .jpg or .webp, for clips in .mp4 or .gif"
    (tmp_path / "folder.png").mkdir()
    line = mistake(*command, f"--out={tmp_path / 'folder.png'}")
    assert line == f"--out {tmp_path / 'folder.png'}: cannot be written: Is a directory"
    line = mistake(*command, f"--out={tmp_path / 'a.webp' / 'b.png'}")
    assert line.startswith(f"--out {tmp_path / 'a.webp' / 'b.png'}: cannot be written: ")


def test_prompt_files(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("first\n\n \t \nzweiter Kreis \u00e4\r\n\u7ea2\u8272".encode())
    assert read_prompts(["zero", " "], path) == ["zero", "first", "zweiter Kreis \u00e4", "\u7ea2\u8272"]
    for content in (b"\x89PNG\r\n\x1a\n\0\0\xff", "prompt".encode("utf-16")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"^--prompts .*prompts.txt: cannot be read as UTF-8 text: .*$"):
            read_prompts([], path)
    for unreadable in (tmp_path, tmp_path / "none.txt"):
        with pytest.raises(UserError, match=r"^--prompts .*: cannot be read as UTF-8 text: .*$"):
            read_prompts([], unreadable)
    path.write_text("\n \n\t\n")
    for prompts, file in (([], path), ([], None), (["", "  "], None)):
        with pytest.raises(UserError, match=r"^no prompt: give --prompt"):
            read_prompts(prompts, file)


def test_generate_tells_what_is_wrong(workdir: Path, tmp_path: Path, mistake: Mistake) -> None:
    command = ("generate", "--prompt", "x", "--out=x.png")
    assert "no such folder; name a model folder" in mistake(*command, "--model=/nowhere")
    assert f"{tmp_path}: no config.json there" in mistake(*command, "--model", tmp_path)
    image = tmp_path / "image.png"
    Image.new("RGB", (5, 7)).save(image)
    line = mistake(*command, "--model", workdir, "--reference", image)
    assert line == "reference: this model was built without a vision encoder (model.reference is empty)"
    line = mistake(*command, "--model", workdir, "--reference", tmp_path / "none.png")
    assert line == f"{tmp_path / 'none.png'}: no such file; give the path of an image"


def test_export_tells_what_is_wrong_and_replaces_only_models(workdir: Path, tmp_path: Path, mistake: Mistake) -> None:
    assert "no config.json there" in mistake("export", "--workdir", tmp_path, "--out", tmp_path / "m")
    line = mistake("export", "--workdir", workdir, "--out", workdir)
    assert (
        line
        == f"--out {workdir}: holds other files: checkpoints, evaluation, metrics.jsonl and 2 more; name another one"
    )
    assert committed(workdir) == [2, 4]
    line = mistake("export", "--workdir", workdir, "--out", tmp_path / "m", "--step", 3)
    assert line == f"{workdir / 'checkpoints'}: no checkpoint of step 3; there are 2, 4"
    for step in (2, 4):
        assert main(["export", f"--workdir={workdir}", f"--out={tmp_path / 'm'}", f"--step={step}"]) == 0
        assert json.loads((tmp_path / "m" / "config.json").read_text())["step"] == step
    copy = shutil.copytree(workdir, tmp_path / "copy")
    (copy / "tokenizer.model").unlink()
    assert "no tokenizer.model there" in mistake("export", "--workdir", copy, "--out", tmp_path / "m")
    shutil.rmtree(copy / "checkpoints")
    assert f"{copy}: no checkpoint " in mistake("export", "--workdir", copy, "--out", tmp_path / "m")
    assert json.loads((tmp_path / "m" / "config.json").read_text())["step"] == 4


def test_evaluate_tells_what_is_wrong(workdir: Path, model: Path, tmp_path: Path, mistake: Mistake) -> None:
    assert "no config.json there" in mistake("evaluate", "--workdir", tmp_path)
    assert f"{model}: no checkpoint there yet; run mmjax train" in mistake("evaluate", "--workdir", model)
    line = mistake("evaluate", "--workdir", workdir, "--step", 7)
    assert line == f"{workdir / 'checkpoints'}: no checkpoint of step 7; there are 2, 4"


def test_a_broken_checkpoint_is_told_and_the_one_before_still_loads(workdir: Path, tmp_path: Path, run: Run) -> None:
    copy = shutil.copytree(workdir, tmp_path / "copy")
    for path in (copy / "checkpoints" / "4" / "state" / "ocdbt.process_0" / "d").iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 50])  # what is read lies anywhere
    lines = noise(run("export", "--workdir", copy, "--out", tmp_path / "m", "--step=4", status=2).stderr)
    assert len(lines) == 1 and lines[0].startswith(f"mmjax: {copy / 'checkpoints'}/4: cannot be restored: ")
    done = run("export", "--workdir", copy, "--out", tmp_path / "m")
    assert ", step 2: " in done.stdout
    (line,) = noise(done.stderr)
    assert line.startswith(f"mmjax: {copy / 'checkpoints'}/4: is damaged (") and line.endswith("; resuming from step 2")
