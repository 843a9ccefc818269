"""The command line itself: help, exit status, and one line for whatever is typed wrongly."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from runs import ROOT, Mistake

from mmjax import cli
from mmjax.cli import COMMANDS, main
from mmjax.types import UserError

TRAIN = ("train", "--config=configs/quickstart.py:tiny", "--workdir=/nowhere/at/all")


@pytest.mark.parametrize("arguments", [[], *[[command] for command in COMMANDS]], ids=lambda words: " ".join(words))
def test_help_of_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    out, err = capsys.readouterr()
    assert ended.value.code == 0 and err == "" and out.startswith("usage: " + " ".join(["mmjax", *arguments]))
    assert all(command in out for command in (COMMANDS if not arguments else ()))


@pytest.mark.parametrize(("arguments", "what"), [
    ([], "the following arguments are required: COMMAND; see mmjax --help"),
    (["trian"], "invalid choice: 'trian' (choose from "),
    (["train"], "the following arguments are required: --config, --workdir; see mmjax train --help"),
    (["generate", "--model=x", "--out=y.png", "--promt=z"], "unknown argument --promt=z; see mmjax generate --help"),
    (["generate", "--model=x", "--out=y.png", "z"], "unknown argument z; see mmjax generate --help"),
    (["generate", "--model=x", "--out=y.png", "--seed=z"], "argument --seed: invalid int value: 'z'; see mmjax gen"),
    (["evaluate", "--workdir=x", "--config.train.steps=3"], "--config.train.steps: cannot be overridden"),
    ([*TRAIN, "--verbose"], "unknown argument --verbose"),
    ([*TRAIN, "--config.train.steps"], "--config.train.steps: needs a value, as in --config.train.steps=VALUE"),
    ([*TRAIN, "--config.train.stesp=3"], "train.stesp: no such field; did you mean train.steps?"),
    ([*TRAIN, "--config.train.steps=many"], "train.steps: must be a whole number, not 'many'"),
    ([*TRAIN, "--config.model.heads", "5"], "model.heads: 5 does not divide model.width, 32"),
    ([*TRAIN, "--config.mesh.data", "-3"], "mesh: each axis must be above 0, and at most one -1"),
    ([*TRAIN, "--config.mesh.data=3"], "mesh: data=3 x fsdp=1 x model=1 does not multiply to the 8 devices there are"),
    (["train", "--config=configs/quickstart.py:tniy", "--workdir=x"], "no config argument tniy; did you mean tiny?"),
    (["train", "--config=configs/none.py", "--workdir=x"], "--config: no file configs/none.py"),
    (["train", "--config=configs/coco_direct.py", "--workdir=x"], "data.root: coco_folder needs the folder"),
    (["train", "--config=configs/coco_direct.py", "--workdir=x", "--config.data.root=/nowhere"],
     "/nowhere: no such folder; data.root must hold train2017/"),
])  # fmt: skip
def test_what_is_typed_wrongly_is_told_in_a_line(
    arguments: list[str], what: str, mistake: Mistake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert what in mistake(*arguments)
    assert not Path("/nowhere").exists() and not Path("x").exists()


@pytest.mark.parametrize(("raised", "status", "line"), [
    (UserError("what, where, what then"), 2, "mmjax: what, where, what then\n"),
    (KeyboardInterrupt(), 130, "mmjax: stopped\n"),
    (BrokenPipeError(), 1, ""),
    (OSError(28, "No space left on device", "/a/b"), 2,
     "mmjax: /a/b: No space left on device; free some space and start again\n"),
    (OSError(28, "No space left on device"), 2, "mmjax: No space left on device; free some space and start again\n"),
])  # fmt: skip
def test_status(
    raised: BaseException, status: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: list[str]) -> int:
        raise raised

    monkeypatch.setattr(cli, "_run", fail)
    assert main(["doctor"]) == status
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("raised", [PermissionError(13, "Permission denied"), ZeroDivisionError()])
def test_what_is_no_mistake_of_the_user_is_not_hidden(raised: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(argv: list[str]) -> int:
        raise raised

    monkeypatch.setattr(cli, "_run", fail)
    with pytest.raises(type(raised)):
        main(["doctor"])


def test_overrides_reach_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    seen: list[Any] = []
    monkeypatch.setattr("mmjax.commands.train.run", lambda arguments: seen.append(arguments) or 0)
    assert main([*TRAIN, "--config.seed", "5", "--config.model.width=64", "--stop-at=3", "--config.name", "a b"]) == 0
    (arguments,) = seen
    config_dict = arguments.config
    assert (config_dict.seed, config_dict.model.width, config_dict.name, arguments.stop_at) == (5, 64, "a b", 3)
    assert config_dict.train.steps == 4


def test_the_module_is_the_command() -> None:
    def status(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "mmjax", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stderr

    assert status("--help") == (0, "")
    assert status("nothing")[0] == 2 and status("nothing")[1].count("\n") == 1


def test_only_the_command_that_runs_is_imported() -> None:
    program = (
        "import sys; from mmjax.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'flax', 'orbax', 'mmjax.config'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True)


@pytest.fixture(name="cache_folder")
def unset_cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What becomes of jax's setting."""
    chosen: list[str] = []
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(jax.config, "update", lambda name, value: chosen.append(value))
    yield chosen


def test_compiled_programs_are_kept_for_each_kind_of_processor(
    cache_folder: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cli._keep_compiled_programs()
    monkeypatch.setattr(cli, "_processor", lambda: "another one")
    cli._keep_compiled_programs()
    assert [Path(folder).parent for folder in cache_folder] == [tmp_path / "mmjax" / "compiled"] * 2
    assert cache_folder[0] != cache_folder[1] and all(Path(folder).is_dir() for folder in cache_folder)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "chosen")
    cli._keep_compiled_programs()
    assert len(cache_folder) == 2


def test_compiled_programs_are_not_kept_where_nothing_can_be_written(
    cache_folder: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cli._keep_compiled_programs()
    assert cache_folder == []
