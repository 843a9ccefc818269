"""Files and folders that may not be read or written are told in one line; none of them counts as damaged or absent."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest
from runs import environment

from mmjax import data, models
from mmjax.config import resolve
from mmjax.export import write_model_folder

SEES = {"kind": "vision_language", "width": 16, "heads": 2, "patch": 8, "layers": 1, "text_layers": 1,
        "decoder_layers": 1, "fusion_layers": 1}  # fmt: skip
CONFIG = "--config=configs/coco_direct.py:tiny"
WITHOUT_RIGHTS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]  # of root, who may read all
MOUNTED = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
# Runs commands, each while a place has another mode.
SCRIPT = """
import contextlib, io, json, os, sys
from mmjax import cli

cli._handle_unraisable()  # as in a process of its own

def run(place, mode, arguments):
    before, out, err = os.stat(place).st_mode, io.StringIO(), io.StringIO()
    if mode is not None:
        os.chmod(place, mode)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(arguments)
    if mode is not None:
        os.chmod(place, before)
    return status, out.getvalue(), err.getvalue()

json.dump([run(*case) for case in json.load(sys.stdin)], sys.stdout)
"""
Outcome = tuple[int, str, str]


def outcomes(cases: list[tuple[Path, int | None, list[Any]]], before: list[str]) -> list[Outcome]:
    """The exit status, stdout and stderr of commands, run in a process that a command starts."""
    given = json.dumps([(str(place), mode, list(map(str, command))) for place, mode, command in cases])
    command = [*before, sys.executable, "-c", SCRIPT]
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": False, "timeout": 200}
    done = subprocess.run(command, input=given, env=environment(), **options)
    assert done.returncode == 0, done.stderr
    found: list[Outcome] = json.loads(done.stdout)
    return found


def denied(cases: list[tuple[Path, int | None, list[Any]]]) -> list[Outcome]:
    return outcomes(cases, [] if os.geteuid() else WITHOUT_RIGHTS)


def mistake(outcome: Outcome) -> str:
    status, _, err = outcome
    assert status == 2 and err.startswith("mmjax: ") and err.count("\n") == 1, outcome
    return err


def test_what_may_not_be_read(workdir: Path, images: Path, tmp_path: Path) -> None:
    root, config = shutil.copytree(images, tmp_path / "coco"), shutil.copy("configs/scenes_direct.py", tmp_path)
    shutil.copy("configs/presets.py", tmp_path)
    export = ["export", f"--workdir={workdir}", f"--out={tmp_path / 'out'}"]
    more = ["train", CONFIG, f"--config.data.root={root}", "--config.train.steps=6", f"--workdir={workdir}"]
    new = ["train", CONFIG, f"--config.data.root={root}", f"--workdir={tmp_path / 'new'}"]
    state = workdir / "checkpoints" / "4" / "state"
    ours: list[Path] = [workdir / "config.json", workdir / "tokenizer.model", workdir / "checkpoints", state.parent]
    ours += [state, state / "_METADATA", state / "d", state / "manifest.ocdbt", state.parent / "metrics"]
    ours += [state.parent / "metrics" / "metrics"]
    cases: list[tuple[Path, int | None, list[Any]]] = [
        *((place, 0, command) for place in ours for command in (export, more)),
        *((place, 0o444, export) for place in (workdir / "checkpoints", state.parent)),
        *((place, 0, new) for place in (root, root / "train2017", root / "annotations")),
        (Path(config), 0, ["train", f"--config={config}:tiny", f"--workdir={tmp_path / 'new'}"]),
    ]
    for (place, _, command), outcome in zip(cases, denied(cases), strict=True):
        assert str(place) in mistake(outcome) or place in (state / "d", state.parent / "metrics" / "metrics"), command
    assert not (tmp_path / "out").exists() and not (workdir / "checkpoints-damaged").exists()
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"2", "4"}


def test_what_may_not_be_written(workdir: Path, images: Path, tmp_path: Path) -> None:
    more = ["train", CONFIG, f"--config.data.root={images}", "--config.train.steps=6", f"--workdir={workdir}"]
    below = tmp_path / "below"
    below.mkdir()
    cases: list[tuple[Path, int | None, list[Any]]] = [
        *((workdir / name, 0o555, more) for name in ("", "checkpoints", "evaluation", "tensorboard")),
        *((place, 0o555, ["evaluate", f"--workdir={workdir}"]) for place in (workdir, workdir / "evaluation")),
        (below, 0o555, ["export", f"--workdir={workdir}", f"--out={below / 'model'}"]),
        (below, 0o555, ["prepare", CONFIG, f"--config.data.root={images}", f"--to={below / 'packed'}"]),
    ]
    for (place, _, _), outcome in zip(cases, denied(cases), strict=True):
        assert str(place) in mistake(outcome)


def test_metrics_and_model_folders(workdir: Path, images: Path, tmp_path: Path) -> None:
    model, drawn = tmp_path / "model", tmp_path / "drawn.png"
    export = ["export", f"--workdir={workdir}", f"--out={model}"]
    generate = ["generate", f"--model={model}", "--prompt=a", f"--out={drawn}"]
    start = ["train", CONFIG, f"--config.data.root={images}", f"--config.train.init_from={model}"]
    start += [f"--workdir={tmp_path / 'new'}"]
    evaluation, *read = (workdir / "evaluation" / "4.json", model / "config.json", model / "tokenizer.model")
    read += [model / "model.safetensors"]
    cases: list[tuple[Path, int | None, list[Any]]] = [(evaluation, 0, export)]
    cases += [(place, 0, command) for place in read for command in (generate, start)]
    (status, _, warning), *found = denied(cases)
    assert status == 0 and warning.count("\n") == 1 and str(evaluation) in warning  # what only informs
    for (place, _, _), outcome in zip(cases[1:], found, strict=True):
        assert str(place) in mistake(outcome)
    assert not drawn.exists()


def test_folders_of_images(images: Path, tmp_path: Path) -> None:
    model, seen = tmp_path / "model", tmp_path / "seen"
    given = {"text": {"length": 11, "vocabulary": 320}, "model": SEES, "train": {"steps": 7}}
    config = resolve({**given, "losses": {"captioning": {}, "contrastive": {}}})
    params = jax.device_get(jax.jit(lambda: models.init(config, jax.random.key(5)))())
    write_model_folder(model, config, params, data.train_tokenizer(["red circles"], 320), 7, {})
    shutil.copytree(images / "train2017", seen / "a")
    shutil.copytree(images / "val2017", seen / "b")
    search = ["search", f"--model={model}", f"--index={seen}", "--text=a", f"--keep={tmp_path / 'kept'}"]
    describe = ["describe", f"--model={model}", f"--image={seen}"]
    cases: list[tuple[Path, int | None, list[Any]]] = [(seen, 0, search), (seen, 0, describe), (seen / "a", 0, search)]
    cases += [(tmp_path / "kept" / "index.json", 0, search)]
    whole, shown, (status, out, warning), kept = denied(cases)
    for place, outcome in ((seen, whole), (seen, shown), (tmp_path / "kept" / "index.json", kept)):
        assert f"{place}: cannot be read: " in mistake(outcome)
    assert status == 0 and out.count("\n") == 3 and f"left out: {seen / 'a'}: " in warning


@pytest.mark.slow
def test_a_read_only_mount(workdir: Path, images: Path, tmp_path: Path) -> None:
    mounted = ["unshare", "--mount", "sh", "-c", MOUNTED, str(workdir)]
    if subprocess.run([*mounted, "true"], capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    more = ["train", CONFIG, f"--config.data.root={images}", "--config.train.steps=6", f"--workdir={workdir}"]
    commands: list[list[Any]] = [more, ["evaluate", f"--workdir={workdir}"]]
    commands += [["export", f"--workdir={workdir}", f"--out={folder / 'model'}"] for folder in (workdir, tmp_path)]
    *refused, (status, _, err) = outcomes([(workdir, None, command) for command in commands], mounted)
    for outcome in refused:
        assert str(workdir) in mistake(outcome)
    assert (status, err) == (0, "")


def test_matplotlib_without_a_folder_for_its_cache(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    script = "import sys; from mmjax import cli; cli.main(); import matplotlib.font_manager"
    given = {**environment(), "MPLCONFIGDIR": str(tmp_path / "file" / "matplotlib")}
    command = [sys.executable, "-c", script, "doctor"]
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
