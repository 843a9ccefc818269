#!/usr/bin/env python3
"""Starts a command in several processes on this machine, as on the hosts of a pod.

    python launch/processes.py -n 2 -- python -m mmjax train --config=configs/quickstart.py:tiny --workdir=runs/two

If one of them dies, all are killed and restarted, with exponential backoff. A user error (exit status 2) is not
retried. Ctrl-C and SIGTERM are passed on, and the exit status is that of the processes. On a CPU each process has one
device, or JAX_NUM_CPU_DEVICES; on GPUs each has the one of its number.
"""

import argparse
import contextlib
import ctypes
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, NoReturn

USER_ERROR = 2  # exit status that is not retried
STABLE = 600.0  # seconds after which the count of restarts is reset
MAX_PAUSE = 60.0
DELAY = 3.0  # seconds in which the first process may print the same line
NOTICED = 0.2  # seconds in which a death is noticed, here and by the other processes, which tell that they lost it
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that tells a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        say(f"{' '.join(message.split())}; see launch/processes.py --help")
        sys.exit(USER_ERROR)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("-n", "--processes", type=int, required=True, help="number of processes")
    parser.add_argument("--restarts", type=int, default=10, help="consecutive restarts before giving up (default 10)")
    parser.add_argument(
        "--pause", type=float, default=1.0, help="seconds before the first restart, doubled for each next"
    )
    parser.add_argument(
        "--grace",
        type=float,
        default=60.0,
        help="seconds for the others to end after the first (default 60)",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- and the command")
    arguments = parser.parse_args(argv)
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        parser.error("no command; give one after --, as in -- mmjax train --config=FILE --workdir=DIR")
    if arguments.processes < 1 or not all(
        0 <= number < float("inf") for number in (arguments.restarts, arguments.pause, arguments.grace)
    ):
        parser.error("-n must be 1 or more, --restarts, --pause and --grace finite and not below 0")
    return Launcher(command, arguments.processes, arguments.restarts, arguments.pause, arguments.grace).run()


@dataclass
class Output:
    """Which output of the processes to show: not lines of the first process again, nor errors that follow from a death.

    Attributes:
        lines: printed by the first process.
        dead: the process that died first.
        died: time of its death, or a little before.
    """

    lines: set[bytes] = field(default_factory=set)
    dead: int = -1
    died: float = float("inf")

    def counts(self, number: int, since: float) -> bool:
        """Whether to show a line: after a death only those of the dead process."""
        return number == self.dead or since < self.died


class Launcher:
    """Runs the processes of one command, and restarts them."""

    def __init__(self, command: list[str], count: int, restarts: int, pause: float, grace: float):
        self.command, self.count, self.restarts, self.pause, self.grace = command, count, restarts, pause, grace
        self.children: list[subprocess.Popen[bytes]] = []
        self.forwarded = 0  # the signal passed on
        self.wake = threading.Event()
        self.output = Output()

    def run(self) -> int:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._pass_on)
        failures = 0
        while True:
            begin = time.monotonic()
            try:
                status = self._run_once()
            except OSError as error:
                say(f"{self.command[0]}: cannot be started: {error.strerror or error}")
                return USER_ERROR
            if status in (0, USER_ERROR) or self.forwarded:
                return status
            failures = 1 if time.monotonic() - begin > STABLE else failures + 1
            if failures > self.restarts:
                say(f"gave up after {self.restarts} consecutive restarts")
                return status
            pause = min(self.pause * 2 ** (failures - 1), MAX_PAUSE)
            say(f"restart {failures} of {self.restarts} in {pause:g} s")
            self.wake.wait(pause)
            if self.forwarded:
                return 128 + self.forwarded if self.forwarded == signal.SIGINT else 0

    def _run_once(self) -> int:
        """Runs the processes until all have ended, or one dies and the others are killed. Returns the exit status."""
        address = f"127.0.0.1:{free_port()}"
        outputs = []
        self.output = Output()
        self.children = []
        try:
            for number in range(self.count):
                child = subprocess.Popen(
                    self.command,
                    env=os.environ | environment(address, number, self.count),
                    stdout=None if number == 0 else subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    start_new_session=True,
                    preexec_fn=end_with_parent,
                )
                self.children.append(child)
                for stream in filter(None, (child.stdout, child.stderr)):
                    outputs.append(threading.Thread(target=copy_lines, args=(stream, number, self.output), daemon=True))
                    outputs[-1].start()
            if self.forwarded:
                self._pass_on(self.forwarded, None)
            status = self._wait()
        finally:
            for child in self.children:
                with contextlib.suppress(ProcessLookupError):  # the process group is gone
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        for thread in outputs:
            thread.join(5)
        return status

    def _wait(self) -> int:
        waiting = dict(enumerate(self.children))
        latest = float("inf")
        while waiting:
            if time.monotonic() > latest:
                say(f"process {min(waiting)} has not ended {self.grace:g} s after the others")
                return 1
            for number, child in list(waiting.items()):
                status = child.poll()
                if status is None:
                    continue
                del waiting[number]
                latest = min(latest, time.monotonic() + self.grace)
                if status:
                    self.output.dead, self.output.died = number, time.monotonic() - NOTICED
                    died = f"by signal {-status}" if status < 0 else f"with status {status}"
                    if status != USER_ERROR and not self.forwarded:
                        say(f"process {number} ended {died}")
                    if status != 128 + self.forwarded:
                        return 128 - status if status < 0 else status
            time.sleep(0.02)
        statuses = [child.returncode for child in self.children]
        return next(filter(None, statuses), 0)

    def _pass_on(self, number: int, frame: object) -> None:
        self.forwarded = number
        self.wake.set()
        for child in self.children:
            if child.poll() is None:
                child.send_signal(number)


def environment(address: str, number: int, count: int) -> dict[str, str]:
    """Environment variables that tell JAX, as Open MPI does, the number and rank of this process."""
    host, port = address.rsplit(":", 1)
    return {
        "OMPI_MCA_orte_hnp_uri": f"0.0;tcp://{host}:{port}",
        "OMPI_COMM_WORLD_SIZE": str(count),
        "OMPI_COMM_WORLD_RANK": str(number),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(number),
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_COORDINATOR_BIND_ADDRESS": address,
    }


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def end_with_parent() -> None:
    """Makes the kernel kill this process if the launcher is killed (Linux)."""
    if sys.platform == "linux":
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def copy_lines(stream: IO[bytes], number: int, output: Output) -> None:
    """Shows the output of a process: of the first one immediately, of the others only lines that it does not print."""
    if number == 0:
        line = b""
        while part := os.read(stream.fileno(), 65536):
            if output.counts(number, time.monotonic()):
                os.write(2, part)
            *whole, line = (line + part.replace(b"\r", b"\n")).split(b"\n")
            output.lines.update(whole)
        return
    lines: queue.Queue[tuple[float, bytes]] = queue.Queue()
    shown = threading.Thread(target=show_later, args=(lines, number, output))
    shown.start()
    for line in stream:
        lines.put((time.monotonic(), line))
    lines.put((0.0, b""))
    shown.join()


def show_later(lines: queue.Queue[tuple[float, bytes]], number: int, output: Output) -> None:
    while (written := lines.get())[1]:
        since, line = written
        time.sleep(max(since + DELAY - time.monotonic(), 0.0))
        if line.strip() and line.rstrip(b"\n") not in output.lines and output.counts(number, since):
            os.write(2, b"[%d] " % number + line)


def say(text: str) -> None:
    os.write(2, f"launch/processes.py: {text}\n".encode())


if __name__ == "__main__":
    sys.exit(main())
