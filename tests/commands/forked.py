"""Commands in processes that are forked from one which has imported already what is slow to import."""

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from mmjax.cli import main

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(
    [f"mmjax.commands.{name}" for name in ("train", "evaluate", "export", "generate")] + ["forked", "matplotlib"]
)


class Command:
    """`mmjax ARGUMENTS` in a process, as far as subprocess.Popen; its output is in folder/out and folder/err.

    It may be forbidden to write files of more than so many KiB. Leaving the context ends it.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        largest_file: int | None = None,
        program: str = "",
    ):
        given = (list(arguments), dict(environment), folder, largest_file, program)
        self._folder, self._process = folder, FORKING.Process(target=_command, args=given)
        self._process.start()

    def __enter__(self) -> "Command":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._process.join()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float) -> int:
        """The exit status, once it has ended."""
        self._process.join(timeout)
        if self.returncode is None:
            self.kill()
            raise TimeoutError("took too long\n" + "".join(self.output()))
        return self.returncode

    def communicate(self, timeout: float = 60) -> tuple[str, str]:
        """All that it printed, once it has ended."""
        self.wait(timeout)
        return self.output()

    def output(self) -> tuple[str, str]:
        out, err = (self._folder / name for name in ("out", "err"))
        return out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8")

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _command(
    arguments: Sequence[str], environment: Mapping[str, str], folder: Path, largest_file: int | None, program: str
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(Path(__file__).parents[2])
    for name, descriptor in (("out", 1), ("err", 2)):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT, 0o600), descriptor)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file * 1024,) * 2)
    sys.argv = ["mmjax", *arguments]
    if program:
        exec(program, {"__name__": "__main__"})
    sys.exit(main())
