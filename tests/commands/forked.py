"""Commands in processes that are forked from one which has imported already what is slow to import."""

import multiprocessing
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmjax.cli import main

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(
    [f"mmjax.commands.{name}" for name in ("train", "evaluate", "export", "generate")] + ["forked", "matplotlib"]
)


def run(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path, timeout: float, largest_file: int | None
) -> int | None:
    """The exit status of `mmjax ARGUMENTS`, None where it took too long; its output is in folder/out and folder/err.

    It may be forbidden to write files of more than so many KiB.
    """
    process = FORKING.Process(target=_command, args=(list(arguments), dict(environment), folder, largest_file))
    process.start()
    process.join(timeout)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode


def _command(arguments: Sequence[str], environment: Mapping[str, str], folder: Path, largest_file: int | None) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(Path(__file__).parents[2])
    for name, descriptor in (("out", 1), ("err", 2)):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT, 0o600), descriptor)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file * 1024,) * 2)
    sys.argv = ["mmjax", *arguments]
    sys.exit(main())
