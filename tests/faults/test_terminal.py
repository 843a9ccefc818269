"""Commands whose terminal is closed, full, of few letters or gone, and Ctrl-C at any time."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import jax
import pytest
from hypothesis import given

from mmjax import cli, terminal
from mmjax.cli import main
from mmjax.commands import doctor, input_reading
from mmjax.config import load_config
from mmjax.types import UserError

ROOT = Path(__file__).parents[2]
CONFIG = f"--config={ROOT / 'configs' / 'scenes_direct.py'}:tiny"
QUICK = ("--config.evaluate.evaluators=losses", "--config.train.best_metric=")
CHATTY = """
import logging, sys
from mmjax import terminal
terminal.prepare()
terminal.ignore_stdout_errors()
from mmjax import progress
for _ in range(3):
    print("step", flush=True)
    progress.write("step")
    print("step", file=sys.stderr, flush=True)
    progress.progress_bar(range(3), "work", 3, delay=0.0).update()
print("a" * 100_000)
opened = open(sys.argv[1], "w")
assert opened.fileno() > 2
opened.write("went on")
"""


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("LC_ALL", "PYTHONIOENCODING")}
    return {**kept, "XLA_FLAGS": os.environ["MMJAX_TESTS_XLA_FLAGS"], **changes}


def start(*arguments: Any, **options: Any) -> subprocess.Popen[str]:
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment(), "cwd": ROOT}
    return subprocess.Popen([sys.executable, *map(str, arguments)], **(pipes | options))


@pytest.mark.parametrize(
    "redirected", [">/dev/full 2>&1", "2>/dev/full", ">&- 2>&-", "2>&-", "0>&- >&-", "2>&1 | true"]
)
def test_what_cannot_be_printed_is_not_printed(redirected: str, tmp_path: Path) -> None:
    script = f'set -o pipefail; "$0" -c "$1" "$2" {redirected}'
    command = ["bash", "-c", script, sys.executable, CHATTY, str(tmp_path / "file")]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert (tmp_path / "file").read_text() == "went on"


@pytest.mark.parametrize("ignored", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["closed", "nohup"])
def test_a_window_that_closes_saves(ignored: bool, tmp_path: Path) -> None:
    """Nothing can be printed either; a training does not need its terminal."""
    reader, writer = os.pipe()
    os.close(reader)
    gone: dict[str, Any] = {} if ignored else {"stdout": writer, "stderr": writer}
    rarely = ("--config.train.evaluate_every=1000000", "--config.train.checkpoint_every=1000000")
    long = ("--config.train.steps=1000000", "--config.train.log_every=1", *rarely)
    # Processes inherit what is ignored, as where the tests run under nohup.
    kept = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    with start("-m", "mmjax", "train", CONFIG, *QUICK, *long, "--workdir", tmp_path, **gone) as process:
        signal.signal(signal.SIGHUP, kept)
        os.close(writer)
        _wait_for_lines(process, tmp_path / "metrics.jsonl", 2)
        process.send_signal(signal.SIGHUP)
        if ignored:
            _wait_for_lines(process, tmp_path / "metrics.jsonl", 100)
            process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert len(list(tmp_path.glob("checkpoints/*/commit_success.txt"))) == 1 and (tmp_path / "report.html").exists()


def _wait_for_lines(process: subprocess.Popen[str], path: Path, count: int) -> None:
    while not path.exists() or path.read_text().count('"train"') < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize("command", ["doctor", "prepare"])
@pytest.mark.parametrize("module", ["argparse", "jax"])
def test_ctrl_c_while_modules_load(command: str, module: str, tmp_path: Path) -> None:
    arguments = [command] if command == "doctor" else [command, CONFIG, f"--workdir={tmp_path / 'none'}"]
    program = f"""
import os, runpy, signal, sys
class Press:
    def find_spec(name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Press)
sys.argv = ["mmjax", *{arguments!r}]
runpy.run_module("mmjax", run_name="__main__")
"""
    with start("-c", program) as process:
        _, err = process.communicate()
    assert (process.returncode, err) == (130, "mmjax: stopped\n")
    assert not (tmp_path / "none").exists()


def test_ctrl_c_that_a_callback_swallows_is_repeated() -> None:
    program = """
import gc, os, signal, sys, time
from mmjax import cli, terminal
def collected(phase, info):
    gc.callbacks.remove(collected)
    raise KeyboardInterrupt
def run(argv):
    terminal.loaded()
    gc.callbacks.append(collected)
    gc.collect()
    for _ in range(200):
        time.sleep(0.1)
    return 0
cli._run = run
sys.argv = ["mmjax", "doctor"]
sys.exit(cli.main())
"""
    with start("-c", program) as process:
        _, err = process.communicate()
    assert process.returncode == 130 and err == "mmjax: stopped\n"


@given(st.text(st.characters(), max_size=20), st.sampled_from(["ascii", "latin-1", "utf-8", "cp1252"]))
def test_any_text_is_printed_in_any_encoding(text: str, encoding: str) -> None:
    terminal.codecs.register_error(terminal.ESCAPE, terminal._escape)
    line = json.dumps(text, ensure_ascii=False).encode(encoding, terminal.ESCAPE).decode(encoding)
    assert json.loads(line) == text
    shown = terminal.printable(text)
    assert shown.isprintable() and (shown == text) == text.isprintable()


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "utf-8"}])
def test_names_and_captions_outside_of_the_encoding(variables: dict[str, str]) -> None:
    program = "from mmjax import terminal; terminal.prepare(); print('\\udcff.png: h\\xe9'); print('done')"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(**variables), cwd=ROOT, capture_output=True, check=True
    )
    shown = done.stdout.decode("utf-8")
    assert shown.startswith("\\udcff.png: h") and shown.endswith("done\n")


@given(st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=30))
def test_a_message_is_one_line_whatever_it_names(name: str) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        lines: list[str] = []
        monkeypatch.setattr(cli, "_run", lambda argv: (_ for _ in ()).throw(UserError(f"{name}: no such file")))
        monkeypatch.setattr(cli, "print", lambda text, file: lines.append(text), raising=False)
        assert main(["doctor"]) == 2
    assert lines == [f"mmjax: {terminal.printable(name)}: no such file"] and lines[0].isprintable()


@pytest.mark.parametrize("option", [
    ("train", CONFIG, "--workdir="), ("prepare", CONFIG, "--to="), ("export", "--workdir=x", "--out="),
    ("generate", "--prompt=x", "--out=x.png", "--model="), ("describe", "--model=x", "--image="),
])  # fmt: skip
def test_an_empty_path_is_refused(option: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(option) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"mmjax: argument {option[-1].strip('=')}: is empty") and err.count("\n") == 1


def test_a_tilde_is_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").symlink_to(ROOT / "configs" / "scenes_direct.py")
    seen: list[Any] = []
    monkeypatch.setattr("mmjax.commands.train.run", lambda arguments: seen.append(arguments) or 0)
    assert main(["train", "--config=~/mine.py:tiny", "--workdir=~/x", "--config.train.checkpoints=~/y"]) == 0
    assert (seen[0].workdir, seen[0].config.train.checkpoints) == (tmp_path / "x", str(tmp_path / "y"))
    assert load_config("~/mine.py:tiny").name == "mine"


def test_only_line_feeds_and_carriage_returns_end_a_line(tmp_path: Path) -> None:
    inside = "a\fb", "c\u2028d", "e\x85f", "g\vh", "i\x1cj"
    (tmp_path / "texts").write_bytes("\r\n".join(inside).encode() + b"\rnext\n\nlast")
    assert input_reading.read_text_lines("--prompts", tmp_path / "texts") == [*inside, "next", "last"]


@pytest.mark.parametrize("error", [
    MemoryError(), MemoryError("Unable to allocate 11.4 GiB for an array"),
    jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7 bytes.\nsecond line"),
])  # fmt: skip
def test_out_of_memory_is_told_in_a_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_run", lambda argv: (_ for _ in ()).throw(error))
    assert main(["train"]) == 2
    err = capsys.readouterr().err
    assert "out of memory" in err and "train.batch" in err and "--beams" in err and err.count("\n") == 1


def test_no_home_and_an_unknown_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    cli._keep_compiled_programs()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("platform", "extra"), [("cuda", "[cuda]"), ("gpu", "[cuda]"), ("tpu", "[tpu]"), ("x", "")])
def test_a_platform_that_is_not_there(platform: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise AssertionError if platform == "cuda" else RuntimeError("Unable to initialize backend\nsecond line")

    monkeypatch.setattr(jax, "devices", none)
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    monkeypatch.setattr(type(jax.config), "jax_platforms", platform, raising=False)
    line = cli._of_the_machine(AssertionError())
    assert line is not None and f"JAX_PLATFORMS={platform}: " in line and extra in line and "\n" not in line


def test_other_errors_are_not_hidden() -> None:
    assert cli._of_the_machine(RuntimeError("else")) is None
