"""Damages configs, options, model folders, workdirs, data and inputs, and runs the commands of users on them.

    python benchmarks/fuzz.py --cases=5000 --seed=0
    python benchmarks/fuzz.py --only=config:17

A case passes if it is refused, with exit status 2 and one line on stderr, in at most five seconds of a processor and
1 GB, or if it is accepted and works: a config is checked as by `mmjax train` and its state is given its shapes, of one
in three the training step is traced, and one of fifty trains a step; of a model folder something is drawn, described or
found; a workdir is exported, resumed or evaluated; of data every example is read; images and texts are used. All cases
follow from the seed, and each from its kind and number alone. Numbers are small, or beyond 64 bits: what large sizes of
a config take is no subject here.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import mmjax
from mmjax import cli

SECONDS, MEGABYTES = 5.0, 1024  # of a case that is refused
KILLED = 120.0, 2048  # of any case
WAITING = 20.0  # seconds after which a case that computes nothing hangs
REFUSED = 2


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a case ended; `failed` says why it did not pass."""

    kind: str
    number: int
    told: str = ""
    status: int | None = None
    stderr: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0
    failed: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default="", metavar="KIND[,...]", help="of the cases (default: all)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--only", default="", metavar="KIND:NUMBER[,...]", help="these cases alone, with their stderr")
    parser.add_argument("--log", type=Path, metavar="FILE", help="also write every outcome to it, as JSON Lines")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made"
        with Worker(Path(folder) / "make", made, arguments.seed) as worker:
            worker.ask(None)
        cases = _cases(arguments)
        found = run(cases, made, arguments.seed, arguments.jobs)
    if arguments.only:
        for each in found:
            print(
                f"{each.kind}:{each.number} {each.told}\nstatus {each.status}\n{each.stderr}{each.failed or 'passed'}"
            )
    if arguments.log:
        lines = [json.dumps(dataclasses.asdict(each)) + "\n" for each in found]
        arguments.log.write_text("".join(lines), encoding="utf-8")
    print(table(found))
    return int(any(each.failed for each in found))


def _cases(arguments: argparse.Namespace) -> list[tuple[str, int]]:
    from fuzz_cases import KINDS  # slow to import

    if arguments.only:
        pairs = (each.rpartition(":") for each in arguments.only.split(","))
        return [(kind, int(number)) for kind, _, number in pairs]
    return cases(arguments.cases, arguments.kinds.split(",") if arguments.kinds else list(KINDS))


def cases(count: int, kinds: Sequence[str]) -> list[tuple[str, int]]:
    """The kinds by their shares, spread evenly, each numbered from 0."""
    from fuzz_cases import KINDS

    shares = {kind: KINDS[kind][0] for kind in kinds}
    done = dict.fromkeys(kinds, 0)
    found = []
    for _ in range(count):
        kind = min(kinds, key=lambda kind: (done[kind] + 1) / shares[kind])
        found.append((kind, done[kind]))
        done[kind] += 1
    return found


def run(cases: Sequence[tuple[str, int]], made: Path, seed: int, jobs: int) -> list[Outcome]:
    """The outcomes of the cases, from several processes."""
    waiting, found, lock = iter(cases), [], threading.Lock()

    def work(number: int) -> None:
        with Worker(made.with_name(f"work{number}"), made, seed) as worker:
            while True:
                with lock:
                    case = next(waiting, None)
                if case is None:
                    return
                each = worker.ask(case)
                with lock:
                    found.append(each)
                    if each.failed:
                        print(f"{each.kind}:{each.number} {each.told!r}: {each.failed}", flush=True)
                    if len(found) % 100 == 0:
                        print(f"{len(found)} of {len(cases)}", file=sys.stderr, flush=True)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


class Worker(contextlib.AbstractContextManager["Worker"]):
    """A process that runs cases, and another one where it was ended by one."""

    def __init__(self, folder: Path, made: Path, seed: int) -> None:
        self.arguments = (folder, made, seed)
        self.process: Any = None

    def ask(self, case: tuple[str, int] | None) -> Outcome:
        """Runs a case; with None, makes what the cases damage."""
        if self.process is None:
            self.connection, other = multiprocessing.Pipe()
            spawned = multiprocessing.get_context("spawn")
            self.process = spawned.Process(target=serve, args=(other, *self.arguments), daemon=True)
            self.process.start()
            other.close()
            self.connection.recv()
        self.connection.send(case)
        told = self.connection.recv() if case else ""
        begin, before, last = _seconds(self.process.pid), _memory(self.process.pid), (0.0, time.monotonic())
        while case and not self.connection.poll(0.05):
            seconds, used = _seconds(self.process.pid) - begin, _memory(self.process.pid) - before
            last = (seconds, time.monotonic()) if seconds > last[0] else last
            hangs = time.monotonic() - last[1] > WAITING
            if hangs or seconds > KILLED[0] or used > KILLED[1]:
                self.close(kill=True)
                failed = f"{'hangs' if hangs else 'ended'} after {seconds:.0f} s with {used:,.0f} MB"
                return Outcome(*case, told, None, "", seconds, used, failed)
        try:
            return self.connection.recv()
        except EOFError:
            self.close()
            if case is None:
                raise
            return Outcome(*case, told, failed="ended the process")

    def close(self, kill: bool = False) -> None:
        if self.process is not None:
            self.connection.close()
            if kill:
                self.process.kill()
            self.process.join()
            self.process = None

    def __exit__(self, *error: object) -> None:
        self.close()


def _memory(pid: int, field: str = "VmRSS") -> float:
    """Megabytes of a process."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:")), 0.0)


def _seconds(pid: int) -> float:
    """Seconds of processors that a process took."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def serve(connection: Connection, folder: Path, made: Path, seed: int) -> None:
    """Runs the cases that come through a connection."""
    os.environ |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
                   "TF_CPP_MIN_LOG_LEVEL": "3", "MPLCONFIGDIR": str(made.with_name("matplotlib"))}  # fmt: skip
    import fuzz_cases

    connection.send(None)
    prepare(made)
    while True:
        try:
            case = connection.recv()
        except EOFError:
            return
        if case is None:
            fuzz_cases.make(made)
        found = outcome(*case, seed, made, folder, connection.send) if case else None
        if found and found.failed.startswith("refused after"):  # the first use of a library takes its import
            found = outcome(*case, seed, made, folder)
        connection.send(found)


def prepare(made: Path) -> None:
    """What holds in a process of its own: a model is loaded once, and only errors of mmjax are told."""
    load = mmjax.load
    kept = functools.cache(load)

    def loaded(path: str | Path, *arguments: Any, **options: Any) -> Any:
        return (kept if Path(path).parent == made else load)(path, *arguments, **options)

    mmjax.load = loaded
    cli._handle_unraisable()
    logging.getLogger("mmjax").addHandler(logging.NullHandler())
    logging.getLogger("mmjax").propagate = False


def outcome(
    kind: str, number: int, seed: int, made: Path, folder: Path, tell: Callable[[str], Any] = lambda told: None
) -> Outcome:
    """Runs a case in a folder, which is emptied; tells before what it is."""
    from fuzz_cases import JUNK, KINDS

    shutil.rmtree(folder, ignore_errors=True)
    (folder / "current").mkdir(parents=True)
    before = os.getcwd()
    os.chdir(folder / "current")
    os.environ["HOME"] = str(folder)
    draw = Random(f"{seed} {kind} {number}")
    try:
        case = KINDS[kind][1](draw, made, folder, JUNK)
        tell(case.told)
        started, begin = _reset_peak(), time.process_time()
        with captured(folder / "stderr"):
            status, trace = _status(case.run)
        seconds, megabytes = time.process_time() - begin, _memory(os.getpid(), "VmHWM") - started
        stderr = (folder / "stderr").read_text(encoding="utf-8", errors="replace")
    finally:
        os.chdir(before)
    found = Outcome(kind, number, case.told, status, stderr + trace, seconds, megabytes)
    return dataclasses.replace(found, failed=problem(found, trace, case.taken))


def problem(found: Outcome, trace: str, taken: bool) -> str:
    """Why a case does not pass; "" where it does."""
    if trace:
        return trace.strip().splitlines()[-1][:300]
    if found.status == 0:
        noise = [line for line in found.stderr.splitlines() if "Traceback" in line or "Warning" in line]
        return f"noise: {noise[0]}" if noise else ""
    if found.status != REFUSED:
        return f"status {found.status}"
    if not (found.stderr.startswith("mmjax: ") and found.stderr.count("\n") == 1 and found.stderr[:-1].isprintable()):
        return f"no single line: {found.stderr!r}"[:300]
    if taken:
        return f"what only informs stopped it: {found.stderr}"[:300]
    if found.seconds > SECONDS or found.megabytes > MEGABYTES:
        return f"refused after {found.seconds:.1f} s with {found.megabytes:,.0f} MB"
    return ""


def _status(run: Any) -> tuple[int | None, str]:
    try:
        return cli._status_of(run), ""
    except SystemExit as ended:  # --help
        return int(ended.code or 0), ""
    except BaseException:
        return None, traceback.format_exc()


def _reset_peak() -> float:
    """Resets the peak of this process's memory, and returns what it has now, in megabytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return _memory(os.getpid())


@contextlib.contextmanager
def captured(path: Path) -> Iterator[None]:
    """Writes what is printed to stderr, by libraries in C too, to a file; stdout is dropped."""
    kept = sys.stdout, sys.stderr
    descriptors = [os.dup(1), os.dup(2)]
    with path.open("wb", buffering=0) as err, open(os.devnull, "wb", buffering=0) as out:
        for number, file in ((1, out), (2, err)):
            os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = (open(n, "w", errors="backslashreplace", closefd=False, buffering=1) for n in (1, 2))
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.close()
            sys.stdout, sys.stderr = kept
            for number, descriptor in zip((1, 2), descriptors, strict=True):
                os.dup2(descriptor, number)
                os.close(descriptor)


def table(found: Sequence[Outcome]) -> str:
    """How many cases of each kind were accepted, refused and failed, and the most that a refusal took."""
    rows = ["kind      cases  accepted  refused  failed  slowest refusal  most memory of one"]
    for kind in [*dict.fromkeys(each.kind for each in found), "all"]:
        own = [each for each in found if kind in (each.kind, "all")]
        refused = [each for each in own if each.status == REFUSED]
        accepted, failed = sum(each.status == 0 for each in own), sum(bool(each.failed) for each in own)
        slowest, most = (max((getattr(e, name) for e in refused), default=0) for name in ("seconds", "megabytes"))
        counts = f"{kind:<9} {len(own):>5,} {accepted:>9,} {len(refused):>8,} {failed:>7,}"
        rows.append(f"{counts} {slowest:>14.1f} s {most:>15,.0f} MB")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
