"""The command line: `mmjax COMMAND ...`."""

import argparse
import errno
import hashlib
import importlib
import logging
import os
import platform
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax

from mmjax import terminal
from mmjax.terminal import printable
from mmjax.types import UserError

COMMANDS = {
    "doctor": "print versions, devices and missing extras",
    "prepare": "prepare data and components for training",
    "train": "train a config, or resume training",
    "evaluate": "evaluate a checkpoint",
    "export": "write a checkpoint as a model folder",
    "generate": "generate images or clips from text",
    "describe": "caption images, or answer questions about them",
    "search": "search images or texts by text or image",
    "inspect": "print what a folder holds",
    "plan": "estimate memory and speed of training on TPUs or GPUs",
}
WITH_CONFIG = ("prepare", "train", "plan")
WITH_SEVERAL_PROCESSES = ("prepare", "train", "evaluate")
WITH_OVERRIDES = (*WITH_CONFIG, "evaluate")
WITHOUT_PLUGINS = ("doctor",)  # all others read config.json files, which may name code of packages
# Of a file or folder that a user named, or a folder of his.
OF_A_FILE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
_EPILOG = """examples:
  mmjax train --config=configs/quickstart.py --workdir=runs/quickstart
  mmjax train --config=configs/coco_direct.py:size=64 --config.data.root=DIR --workdir=runs/coco
  mmjax generate --model=runs/quickstart --prompt "a small red circle left of a large blue square" --out=drawn.png
  mmjax describe --model=runs/describe --image=image.png --question="what color is the circle?"
  mmjax search --model=runs/describe --index=FOLDER --text="a red circle left of a blue square"
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns 0 on success, 2 on a user error, 130 on Ctrl-C, else 1."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if argv is not None:
        return _status_of(lambda: _run(list(argv)))
    terminal.prepare()  # only in a process of its own, as is what follows
    _handle_unraisable()
    _log_to_terminal()
    jax.config.update("jax_enable_x64", False)  # all is made of types of 32 bits, random numbers too
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    if command not in WITH_SEVERAL_PROCESSES:
        return _status_of(lambda: _run(sys.argv[1:]))
    return _one_of_several(sys.argv[1:], command)


def _one_of_several(argv: Sequence[str], command: str) -> int:
    """Runs a command as one of the processes of a training, or the only one."""
    from mmjax.parallel import processes  # slow to import

    def end(number: int, frame: Any) -> None:
        sys.exit(processes.stopped_status())

    ordinary = {0, 128 + signal.SIGINT}  # exit statuses that all processes reach together

    def run() -> int:
        ordinary.add(processes.stopped_status())
        processes.connect()
        if command == "evaluate" or processes.connected() == 1:
            signal.signal(signal.SIGTERM, end)  # else JAX, connected, broadcasts it to all processes
        try:
            return _run(list(argv))
        except KeyboardInterrupt:
            processes.exit(128 + signal.SIGINT)
            raise
        except SystemExit as ended:
            processes.exit(int(ended.code or 0))
            raise

    terminal.ignore_stdout_errors()
    _keep_compiled_programs()
    # While there is nothing to save, SIGTERM ends a command at once, without a failure.
    signal.signal(signal.SIGTERM, end)
    hangup = getattr(signal, "SIGHUP", None)  # not on Windows
    if hangup and signal.getsignal(hangup) is signal.SIG_DFL:  # not where it is ignored, as by nohup
        signal.signal(hangup, lambda number, frame: os.kill(os.getpid(), signal.SIGTERM))
    try:
        status = _status_of(run)
    except Exception:
        traceback.print_exc()
        status = 1
    if status not in ordinary:
        processes.exit(status, alone=True)
    return status


def _keep_compiled_programs() -> None:
    """Sets the persistent compilation cache to ~/.cache/mmjax/compiled, unless JAX_COMPILATION_CACHE_DIR is set.

    Each kind of processor has a folder, since programs depend on its instructions. JAX_ENABLE_COMPILATION_CACHE=false
    disables the cache.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    if not cache.is_absolute():  # no home, as of an unknown user in a container
        return
    folder = cache / "mmjax" / "compiled" / hashlib.sha256(_processor().encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _processor() -> str:
    """Identifies the kind of processor by its model and instructions, if known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    details = sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
    return "\n".join([platform.machine(), platform.processor(), *details])


def _status_of(run: Callable[[], int]) -> int:
    try:
        return run()
    except UserError as error:
        print(f"mmjax: {printable(str(error))}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("mmjax: stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return 1
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if not (is_full or (error.filename and error.errno in OF_A_FILE)):
            raise
        where = f"{error.filename}: " if error.filename else ""
        advice = "; free some space and start again" if is_full else ""
        print(f"mmjax: {printable(where)}{error.strerror}{advice}", file=sys.stderr)
        return 2
    except (RuntimeError, AssertionError, MemoryError) as error:
        line = _of_the_machine(error)
        if not line:
            raise
        print(f"mmjax: {printable(line)}", file=sys.stderr)
        return 2


def _of_the_machine(error: Exception) -> str | None:
    """Describes an error for lack of memory or of the devices asked for; None for others."""
    from mmjax.engine import memory

    if what := memory.out_of_memory(error):
        return (
            f"out of memory: {what}; try a smaller train.batch (with optimizer.grad_accum_steps, train.batch is split) "
            "or evaluate.batch, or fewer --beams or prompts; mmjax plan estimates what a training takes"
        )
    from mmjax.commands import doctor

    return doctor.device_error()


def _handle_unraisable() -> None:
    """Silences the transfers that Orbax leaves unawaited after a failed checkpoint, and repeats a Ctrl-C that was lost.

    Python drops exceptions in callbacks, as in JAX's of the garbage collector, KeyboardInterrupt as well.
    """
    for name in ("absl", "asyncio", "matplotlib"):  # failures are raised as well; a cache that is missing is none
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if unraisable.exc_type is KeyboardInterrupt:
            again = (threading.main_thread().ident, signal.SIGINT)
            threading.Timer(0.05, signal.pthread_kill, again).start()  # in the callback it would be lost again
        elif str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook


def _log_to_terminal() -> None:
    """Prints each warning of mmjax as one line, above the progress bar if there is one."""

    class Terminal(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            from mmjax import progress

            progress.write(f"mmjax: {self.format(record)}", file=sys.stderr)

    logger = logging.getLogger("mmjax")
    logger.addHandler(Terminal(logging.WARNING))
    logger.propagate = False  # else handlers of other libraries repeat it


def _run(argv: list[str]) -> int:
    parser = _Parser(
        prog="mmjax",
        description="Multimodal models in JAX: train, evaluate, export, generate, describe.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    name = next((word for word in argv if not word.startswith("-")), None)
    for command, summary in COMMANDS.items():
        sub = subparsers.add_parser(command, help=summary, description=summary, allow_abbrev=False)
        if command == name:  # only the command that runs is imported
            module = importlib.import_module(f"mmjax.commands.{command}")
            sub.description = module.HELP
            if command in WITH_CONFIG:
                sub.add_argument(
                    "--config",
                    required=True,
                    metavar="FILE[:ARGUMENTS]",
                    help="config file and its arguments, as in configs/coco_direct.py:size=64,tiny",
                )
                sub.add_argument("--help-config", action="store_true", help="print every field of the config and exit")
                sub.epilog = "--config.FIELD=VALUE overrides a field of the config, as in --config.train.batch=32."
            if command not in WITHOUT_PLUGINS:
                sub.add_argument(
                    "--plugins",
                    type=lambda text: tuple(filter(None, text.split(","))),
                    default=(),
                    metavar="PACKAGE[,...]",
                    help="packages whose code a config.json may name; no others are imported",
                )
            sub.register("type", Path, _path)
            module.add_arguments(sub)
            if command in WITH_CONFIG and "--help-config" in argv:
                return _help_config(argv)
    arguments, rest = parser.parse_known_args(argv)
    arguments.overrides = _overrides(rest, arguments.command)
    if arguments.command in WITH_CONFIG:
        from mmjax.config import load_config

        if arguments.command == "plan":  # opens no data set
            arguments.overrides = {"data.root": "none", **arguments.overrides}
        arguments.config = load_config(arguments.config, arguments.overrides)
    terminal.loaded()
    return module.run(arguments)


def _path(text: str) -> Path:
    """The path of an argument; shells leave `--workdir=~/x` as it is, and an unset variable is no path."""
    from mmjax.config.parse import expand_home  # slow to import

    if not text:
        raise argparse.ArgumentTypeError("is empty; needs a path")
    return Path(expand_home(text))


def _help_config(argv: Sequence[str]) -> int:
    """Prints the fields of --config, which need not be valid; other arguments are ignored."""
    from mmjax.config import read_config_dict
    from mmjax.config.known_fields import describe

    parser = _Parser(prog="mmjax", allow_abbrev=False)
    parser.add_argument("--config", required=True)
    print(describe(read_config_dict(parser.parse_known_args(argv)[0].config)))
    return 0


def _overrides(words: list[str], command: str) -> dict[str, str]:
    """Parses `--config.a.b=value` and `--config.a.b value` by field name."""
    overrides = {}
    words = list(words)
    while words:
        word = words.pop(0)
        if not (command in WITH_OVERRIDES and word.startswith("--config.")):
            raise UserError(f"unknown argument {word}; see mmjax {command} --help")
        name, equals, value = word.removeprefix("--config.").partition("=")
        if not equals:
            if not words:
                raise UserError(f"{word}: needs a value, as in {word}=VALUE")
            value = words.pop(0)
        overrides[name] = value
    return overrides
