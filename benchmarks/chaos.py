"""Disturbs trainings of two processes at random moments, and compares them with an undisturbed one.

    python benchmarks/chaos.py --runs=100 --seed=0

Each run is one of: kill -9 of a process, SIGTERM to a process, SIGSTOP of a process for good, or kill -9 of all and a
flipped bit in the newest of at least two checkpoints, also of a finished training. It is resumed until all steps are
done. A run passes if every array of the last checkpoint is bitwise equal to that of the undisturbed training. A
flipped bit counts as detected if a warning says so; without one, the values restored must have been those saved, which
the comparison shows.
"""

import argparse
import contextlib
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

ROOT = Path(__file__).parents[1]
EVENTS = ("kill", "terminate", "stop", "flip")
STEPS = 24
CONFIG = (
    "--config=configs/scenes_direct.py:tiny",
    f"--config.train.steps={STEPS}",
    "--config.train.checkpoint_every=4",
    "--config.train.evaluate_every=12",
    "--config.train.best_metric=",
)
HEARTBEAT = 10  # seconds after which a stopped process is considered dead
TIMEOUT = 1800  # seconds of one run
ENDED = ", when all was done"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--events", default=",".join(EVENTS), help="which, in turn (default: %(default)s)")
    arguments = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    logging.getLogger("absl").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        return chaos(Path(folder), arguments.runs, arguments.seed, arguments.events.split(","))


def chaos(folder: Path, runs: int, seed: int, events: Sequence[str]) -> int:
    """Prints a line a run; returns 1 where one of them did not end as the undisturbed training."""
    finish(folder / "undisturbed", start(folder / "undisturbed"), [])
    expected = state_of(folder / "undisturbed")
    begin = time.monotonic()  # the programs are compiled now
    finish(folder / "again", start(folder / "again"), [])
    lasts = time.monotonic() - begin
    draw, passed, told = random.Random(seed), 0, {True: 0, False: 0}
    for number in range(runs):
        event = events[number % len(events)]
        moment = draw.uniform(0, lasts / 4 if event == "flip" else lasts)  # most of the time is starting
        workdir, log = folder / str(number), []
        process = start(workdir)
        noted = disturb(event, moment, process, workdir, draw, log)
        if noted == ENDED:
            lasts = moment  # less than that: the machine is not as busy as it was
        if process.poll() is not None:
            process = start(workdir)
        finish(workdir, process, log)
        same = equal(state_of(workdir), expected)
        passed += same
        if event == "flip" and noted:
            told["is damaged" in "".join(log)] += 1
        print(f"run {number}: {event} after {moment:.1f} s{noted}: {'same' if same else 'DIFFERENT'}", flush=True)
    print(
        f"{passed} of {runs} ended as the undisturbed training; flipped bits: {told[True]} told, {told[False]} harmless"
    )
    return int(passed != runs)


def start(workdir: Path) -> subprocess.Popen[str]:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "MMJAX_HEARTBEAT_SECONDS": str(HEARTBEAT),
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    command = [sys.executable, "-m", "mmjax", "train", *CONFIG, f"--workdir={workdir}"]
    launcher = [
        sys.executable,
        str(ROOT / "launch" / "processes.py"),
        "-n",
        "2",
        "--pause",
        "0.1",
        "--grace",
        "20",
        "--",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen([*launcher, *command], cwd=ROOT, env=environment, text=True, **pipes)


def disturb(
    event: str, moment: float, process: subprocess.Popen[str], workdir: Path, draw: random.Random, log: list[str]
) -> str:
    """Does it, and says to what; of a training that has ended there is only a checkpoint to damage."""
    if event == "flip":
        while process.poll() is None and len(committed(workdir)) < 2:
            time.sleep(0.02)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(moment)
    if event == "flip":
        process.kill()
        log.append(process.communicate()[0])
        return flip(workdir, draw)
    if process.poll() is not None:
        return ENDED
    children = children_of(process.pid)
    if not children:
        return ", before there was a process"
    victim = draw.choice(children)
    os.kill(victim, {"kill": signal.SIGKILL, "terminate": signal.SIGTERM, "stop": signal.SIGSTOP}[event])
    return f", process {children.index(victim)}"


def flip(workdir: Path, draw: random.Random) -> str:
    """Flips a bit in the newest checkpoint, and says in which file."""
    newest = committed(workdir)[-1]
    files = [path for path in sorted(newest.rglob("*")) if path.is_file() and path.stat().st_size]
    path = draw.choices(files, [path.stat().st_size for path in files])[0]
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    return f", in {path.relative_to(workdir)}"


def committed(workdir: Path) -> list[Path]:
    """The checkpoints, the newest last."""
    found = [path.parent for path in workdir.glob("checkpoints/*/commit_success.txt")]
    return sorted(found, key=lambda path: int(path.name))


def finish(workdir: Path, process: subprocess.Popen[str], log: list[str]) -> None:
    """Until all steps are done: a training that was told to go is started again."""
    for _ in range(5):
        try:
            log.append(process.communicate(timeout=TIMEOUT)[0])
        finally:
            process.kill()  # where it does not end
        if process.returncode:
            raise RuntimeError(f"{workdir}: exit status {process.returncode}\n{log[-1]}")
        if (workdir / "checkpoints" / str(STEPS) / "commit_success.txt").exists():
            return
        process = start(workdir)
    raise RuntimeError(f"{workdir}: does not end\n{log[-1]}")


def children_of(pid: int) -> list[int]:
    """The processes that a process started, the first one first (Linux)."""
    return sorted(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()))


def state_of(workdir: Path) -> dict[str, np.ndarray]:
    """Every array of the last checkpoint, as Orbax reads it without knowing of mmjax."""
    path = (workdir / "checkpoints" / str(STEPS) / "state").resolve()
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        tree = reader.metadata(path).item_metadata.tree
        as_numpy = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        restored = reader.restore(path, ocp.args.PyTreeRestore(restore_args=as_numpy))
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(restored)}


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(leaf.tobytes() == other[name].tobytes() for name, leaf in one.items())


if __name__ == "__main__":
    sys.exit(main())
