"""Machines that are set up otherwise: 64-bit types, file systems without locks, mount points, users without a home."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from runs import ROOT, Mistake, assert_same_state, environment

import mmjax
from mmjax.cli import main
from mmjax.config import load_config
from mmjax.config.parse import expand_home
from mmjax.data.folder_dataset import in_parallel
from mmjax.engine import aot_plan, memory
from mmjax.parallel import Placement, make_mesh
from mmjax.sample.chunks import per_example
from mmjax.types import UserError

# mmjax ARGUMENTS for each of the JSON lists, one after the other in a process of their own.
COMMANDS = """
import json, sys
from mmjax.cli import main
for text in sys.argv[1:]:
    sys.argv = ["mmjax", *json.loads(text)]
    if status := main():
        sys.exit(status)
"""
CONFIG = "--config=configs/coco_direct.py:tiny"
UNKNOWN = 54321  # a user that no machine has


def commands(*lists: list[Any], before: tuple[str, ...] = (), **variables: str) -> subprocess.CompletedProcess[str]:
    texts = [json.dumps([str(word) for word in words]) for words in lists]
    command = [*before, sys.executable, "-c", COMMANDS, *texts]
    kept = environment() | {"MMJAX_ALONE": "1", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)} | variables
    return subprocess.run(command, env=kept, capture_output=True, text=True, check=False, timeout=200)


@pytest.mark.timeout(300)
def test_64_bit_types_change_nothing(finished: Path, workdir: Path, images: Path, tmp_path: Path) -> None:
    """Nor does JAX's setting for them break a checkpoint, or sampling."""
    shutil.rmtree(workdir / "checkpoints" / "4")
    train = ["train", CONFIG, f"--config.data.root={images}", "--workdir", workdir]
    done = commands(
        train,
        ["generate", "--model", workdir, "--prompt=a dog", "--out", tmp_path / "drawn.png"],
        JAX_ENABLE_X64="1",
    )
    assert done.returncode == 0 and "resuming from step 2" in done.stdout, done.stdout + done.stderr
    assert_same_state(workdir, finished, 4)
    with Image.open(tmp_path / "drawn.png") as drawn:
        there = np.asarray(drawn, np.int32)
    # Here there are eight devices, there is one, so the same arithmetic may be split differently.
    assert np.abs(there - mmjax.load(finished).generate(["a dog"])[0]).max() <= 1


def test_a_program_with_64_bit_types_draws_the_same() -> None:
    def draw(scale: jax.Array, seeds: jax.Array) -> jax.Array:
        drawn = jax.vmap(lambda seed: jax.random.normal(jax.random.key(seed), (7,)))(seeds)
        codes, _ = jax.lax.scan(lambda best, _: (drawn.argmax(-1), None), np.zeros(len(drawn), np.int32), None, 2)
        return scale * drawn + codes[:, None].astype(np.float32)

    seeds, scale = np.arange(5, dtype=np.int32), np.float32(3)
    expected = per_example(draw)(scale, seeds)
    with jax.enable_x64(True):
        found = per_example(draw)(scale, seeds)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_a_workdir_on_a_file_system_without_locks(
    workdir: Path, images: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(file: Any, operation: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert main(["train", CONFIG, f"--config.data.root={images}", f"--workdir={workdir}"]) == 0
    assert [record.message for record in caplog.records if str(workdir) in record.message and "locks" in record.message]
    assert not (workdir / "training.lock").exists()


def test_an_export_fills_an_empty_folder(workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a mount point, which cannot be renamed, in a folder that cannot be written."""
    for taken in ("new", "link"):
        (tmp_path / taken).mkdir()
    out = tmp_path / "link" / "out"
    out.symlink_to(tmp_path / "new")
    (tmp_path / "new" / "lost+found").mkdir()  # of a file system
    inode, rename, moved = (tmp_path / "new").stat().st_ino, Path.rename, list[str]()

    def busy(path: Path, target: Path) -> Path:
        if tmp_path / "new" in (path, target):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        moved.append(target.name)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", busy)
    for _ in range(2):  # into the empty folder, and where there is a model
        assert main(["export", f"--workdir={workdir}", f"--out={out}"]) == 0
        assert moved[-1] == "config.json"
        assert mmjax.load(out).params
    assert (tmp_path / "new").stat().st_ino == inode
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["README.md", "config.json", "lost+found", "model.safetensors", "tokenizer.model"]


def test_an_export_that_was_killed_is_done_again(workdir: Path, tmp_path: Path) -> None:
    left = tmp_path / "out" / ".partial" / "old"
    left.mkdir(parents=True)
    (left / "config.json").touch()
    (tmp_path / "out" / "README.md").touch()
    assert main(["export", f"--workdir={workdir}", f"--out={tmp_path / 'out'}"]) == 0
    assert not (tmp_path / "out" / ".partial").exists() and mmjax.load(tmp_path / "out").params


def can_mount() -> bool:
    command = ["unshare", "--mount", "true"]
    return not (shutil.which("unshare") is None or subprocess.run(command, capture_output=True).returncode)


@pytest.mark.slow
@pytest.mark.skipif(not can_mount(), reason="needs the right to mount")
def test_an_export_to_a_mount_point(workdir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    script = 'mount -t tmpfs none "$0" && "$@" && ls "$0"'
    words = [["export", "--workdir", workdir, "--out", out]] * 2
    done = commands(*words, before=("unshare", "--mount", "sh", "-c", script, str(out)))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-4:] == ["README.md", "config.json", "model.safetensors", "tokenizer.model"]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs the right to become another user")
def test_an_unknown_user_without_a_home(finished: Path, images: Path, tmp_path: Path) -> None:
    """As in a container that was started with --user; Python may be below /root, so that user may read everything."""
    may_read = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    names = ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR", "MPLCONFIGDIR")
    with tempfile.TemporaryDirectory() as name:  # elsewhere than pytest's own, which is root's alone
        folder = Path(name)
        shutil.copytree(finished, folder / "run")
        shutil.copytree(images, folder / "images")
        for path in (folder, *folder.rglob("*")):
            os.chown(path, UNKNOWN, UNKNOWN)
        before = ("setpriv", f"--reuid={UNKNOWN}", f"--regid={UNKNOWN}", "--clear-groups", *may_read)
        before += ("env", *(f"--unset={name}" for name in names), f"--chdir={folder}")
        done = commands(
            ["train", CONFIG.replace("=", f"={ROOT}/"), "--config.data.root=images", "--workdir=run"],  # done already
            ["export", "--workdir=run", "--out=model"],
            ["generate", "--model=model", "--prompt=a dog", "--out=drawn.png"],
            before=before,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
        assert {(folder / made).stat().st_uid for made in ("drawn.png", "run/report.html")} == {UNKNOWN}


@pytest.mark.parametrize("path", ["~", "~/run"])
def test_there_is_no_folder_named_tilde(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mistake: Mistake
) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^{path}: "):
        expand_home(path)
    config = CONFIG.replace("=", f"={ROOT}/")
    for options in ([f"--workdir={path}"], ["--workdir=run", f"--config.train.checkpoints={path}"]):
        assert mistake("train", config, *options).startswith(f"{path}: there is no home folder")
    assert expand_home("~lock.png") == "~lock.png" and list(tmp_path.iterdir()) == []


def test_threads_that_close_their_own_iterator() -> None:
    """As the garbage collector does, which runs in any thread."""
    dropped, ended, errors = threading.Event(), threading.Event(), list[BaseException]()

    def call(number: int) -> int:
        if number == 1 and dropped.wait(60):
            try:
                results.close()
            except BaseException as error:
                errors.append(error)
            ended.set()
        return number

    results = in_parallel((lambda i=i: call(i) for i in range(100)), 2)
    assert next(results) == 0
    dropped.set()
    assert ended.wait(60) and errors == [] and list(results) == []


def exhausted(*arguments: Any, **named: Any) -> None:
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.\nsecond line")


class Device:
    def __init__(self, size: int):
        self.size = size

    def memory_stats(self) -> dict[str, int] | None:
        return {"bytes_limit": self.size} if self.size else None


def test_a_training_that_does_not_fit(
    workdir: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mmjax.engine.train.loop.train", exhausted)
    shutil.rmtree(workdir / "checkpoints" / "4")
    words = ["train", CONFIG, f"--config.data.root={images}", f"--workdir={workdir}", "--config.train.batch=32"]
    assert main(words) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "mmjax: out of memory: RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.; "
        "try --config.optimizer.grad_accum_steps=2 or --config.train.batch=16"
    )


@pytest.mark.parametrize(("size", "fits"), [
    (0, 128), (2**27, 64), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ((2**20, 0), (2**40, 128))),
])  # fmt: skip
def test_what_would_fit_into_memory(size: int, fits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an estimate where the memory of a device is known; else the half."""
    config = load_config(f"{ROOT}/configs/scenes_direct.py:tiny", {"train.batch": "256"})
    placement = Placement(make_mesh(config.mesh, jax.devices()[:1]))
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(size)])
    advice = memory.smaller_step(config, placement)
    assert ("estimated" in advice) == (size > 0 and fits > 0)
    if fits:
        assert f"grad_accum_steps={256 // fits} or --config.train.batch={fits}" in advice
        assert not size or aot_plan.step_bytes(config, placement, fits) <= size
        assert fits == 128 or aot_plan.step_bytes(config, placement, 2 * fits) > size
    else:
        assert "no smaller train.batch fits" in advice


@pytest.mark.parametrize("batch", [pytest.param(16, marks=pytest.mark.slow), 24])
def test_an_evaluation_that_does_not_fit(
    batch: int, workdir: Path, monkeypatch: pytest.MonkeyPatch, mistake: Mistake
) -> None:
    """On eight devices."""
    monkeypatch.setattr("mmjax.commands.evaluate.runner.run", exhausted)
    line = mistake("evaluate", f"--workdir={workdir}", f"--config.evaluate.batch={batch}")
    assert line.startswith("out of memory: ") and line.endswith("; try --config.evaluate.batch=8")


@given(size=st.integers(1, 10**6), least=st.integers(1, 64))
def test_halves(size: int, least: int) -> None:
    advice = memory.halved("--beams", size, least)
    number = int(advice.rpartition("=")[2]) if "--beams=" in advice else 0
    assert number % least == 0 and (least <= number < size or (number == 0 and size <= least))


def test_other_errors_are_not_for_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="else"), memory.explained(lambda: "no advice"):
        raise RuntimeError("else")
