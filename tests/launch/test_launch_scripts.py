"""The shell scripts of launch/: their syntax, and what they do with exit statuses and SIGTERM."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
KEEP_RUNNING = LAUNCH / "keep_running.sh"
SLURM = LAUNCH / "slurm.sbatch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), SLURM])


def python(path: Path, version: str) -> None:
    """A Python as far as launch/environment.sh looks: of that version, or a shim that answers nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{f'echo {version}' if version else 'exit 127'}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("pythons", "asked", "found"),
    [
        ({"bin/python3.11": "3.11", "bin/python3.12": "3.12", "bin/python3": "3.11"}, "", "bin/python3.12"),
        ({"bin/python3.13": "", "bin/python3.12": "3.12"}, "", "bin/python3.12"),
        ({"bin/python3.13": "", "pyenv/versions/3.13.0/bin/python3.13": "3.13"}, "",
         "pyenv/versions/3.13.0/bin/python3.13"),
        ({"bin/python3": "3.11"}, "", "bin/python3"),
        ({"bin/python3.13": "3.13", "bin/python3.11": "", "other/python3.11": "3.11"}, "python3.11",
         "other/python3.11"),
        ({"bin/python3.13": "3.13", "pyenv/versions/3.11.7/bin/python3.11": "3.11"}, "python3.11",
         "pyenv/versions/3.11.7/bin/python3.11"),
        ({"bin/python3.13": "3.13", "else where/python3.11": "3.11"}, "else where/python3.11", "else where/python3.11"),
        ({"bin/python3.13": "3.13"}, "python3.11", "PYTHON=python3.11"),
        ({"bin/python3.13": ""}, "", "3.13"),
    ],
)  # fmt: skip
def test_the_newest_python_that_works_is_taken(pythons: dict[str, str], asked: str, found: str, tmp_path: Path) -> None:
    for name, version in pythons.items():
        python(tmp_path / name, version)
    environment = {"PATH": "bin:other", "PYENV_ROOT": "pyenv", "HOME": str(tmp_path), "PYTHON": asked}
    done = subprocess.run(
        ["/bin/bash", "-c", f'. "{LAUNCH / "environment.sh"}"; pick_python; echo "$PYTHON"'],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if found in pythons:
        assert (done.returncode, done.stdout.strip()) == (0, found), done.stderr
    else:
        assert done.returncode == 1 and done.stderr.startswith("error: ") and found in done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_syntax(script: Path) -> None:
    assert subprocess.run(["bash", "-n", str(script)], capture_output=True).stderr == b""


def keep_running(restarts: int, program: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(KEEP_RUNNING), str(restarts), "bash", "-c", program],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "KEEP_RUNNING_PAUSE": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("restarts", "program", "status", "starts"),
    [
        (5, "exit 0", 0, 1),
        (5, "exit 2", 2, 1),  # the user's mistake
        (5, "exit 130", 130, 1),
        (5, "[ $(wc -l < starts) -eq 3 ] || kill -ABRT $$", 0, 3),
        (2, "exit 1", 1, 3),
        (0, "exit 134", 134, 1),
        (5, '[ $(wc -l < starts) -eq 3 ] || exit "$MMJAX_STOPPED_STATUS"', 0, 3),  # another host was told to end
    ],
)
def test_keep_running(restarts: int, program: str, status: int, starts: int, tmp_path: Path) -> None:
    process = keep_running(restarts, f"echo >> starts; {program}", tmp_path)
    _, told = process.communicate(timeout=60)
    assert process.returncode == status
    assert len((tmp_path / "starts").read_text()) == starts
    assert len(re.findall("restarts left", told)) == starts - 1


@pytest.mark.parametrize(("own", "status"), [(0, 143), (3, 3)])
def test_keep_running_does_not_take_a_stopped_run_for_a_finished_one(own: int, status: int, tmp_path: Path) -> None:
    program = f"trap 'echo saved >> told; exit {own}' TERM; touch ready; while :; do sleep 0.02; done"
    process = keep_running(5, program, tmp_path)
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == status
    assert (tmp_path / "told").read_text() == "saved\n"


def test_keep_running_passes_sigterm_on_once(tmp_path: Path) -> None:
    program = "trap 'echo >> told' TERM; touch ready; while [ ! -e end ]; do sleep 0.02; done"
    process = keep_running(5, program, tmp_path)
    wait_for(tmp_path / "ready")
    process.send_signal(signal.SIGTERM)
    wait_for(tmp_path / "told")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    (tmp_path / "end").touch()
    process.communicate(timeout=60)
    assert (process.returncode, (tmp_path / "told").read_text()) == (143, "\n")


@pytest.mark.parametrize("arguments", [[], ["mmjax", "train"], ["3"]])
def test_keep_running_without_what_it_needs(arguments: list[str]) -> None:
    done = subprocess.run([str(KEEP_RUNNING), *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def wait_for(path: Path) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < end, path
        time.sleep(0.02)


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A folder with SLURM's commands, which note what they are called with; srun then does what `step` says."""
    folder = tmp_path / "bin"
    folder.mkdir()
    notes = '#!/usr/bin/env bash\nprintf "%s\\n" "${0##*/}" "$@" >> "$NOTES"\n'
    for name, does in {
        "srun": 'exec bash "$STEP"',
        "scontrol": "",
        "scancel": 'kill -TERM "$(cat "$NOTES.step")"',
        "mmjax": "",
    }.items():
        (folder / name).write_text(notes + does + "\n")
        (folder / name).chmod(0o755)
    return tmp_path


def submit(cluster: Path, step: str, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    (cluster / "step").write_text(step)
    environment = {
        "PATH": f"{cluster / 'bin'}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "17",
        "NOTES": str(cluster / "notes"),
        "STEP": str(cluster / "step"),
        **variables,
    }
    given = arguments or ("--config=a.py", "--workdir=my runs/a")
    return subprocess.Popen(
        ["bash", str(SLURM), *given], cwd=cluster, env=environment, stderr=subprocess.PIPE, text=True
    )


def notes(cluster: Path) -> list[str]:
    path = cluster / "notes"
    return path.read_text().splitlines() if path.exists() else []


TRAIN = ["srun", "--kill-on-bad-exit=1", "--gpu-bind=none", "mmjax", "train", "--config=a.py", "--workdir=my runs/a"]
REQUEUE = ["scontrol", "requeue", "17"]


@pytest.mark.parametrize(
    ("step", "restarts", "status", "then"),
    [
        ("exit 0", "0", 0, []),
        ("exit 2", "0", 2, []),
        ("exit 134", "0", 0, REQUEUE),
        ("exit 134", "50", 134, []),
        ('exit "$MMJAX_STOPPED_STATUS"', "0", 0, REQUEUE),  # the tasks were told to end, and nobody else
    ],
)
def test_slurm_queues_again_what_died(cluster: Path, step: str, restarts: str, status: int, then: list[str]) -> None:
    process = submit(cluster, step, SLURM_RESTART_COUNT=restarts)
    process.communicate(timeout=60)
    assert process.returncode == status
    assert notes(cluster) == [*TRAIN, *then]


@pytest.mark.parametrize(("restarts", "status", "then"), [("0", 0, REQUEUE), ("50", 143, [])])
def test_slurm_saves_and_queues_again_before_the_time_is_over(
    cluster: Path, restarts: str, status: int, then: list[str]
) -> None:
    step = 'trap "exit 0" TERM; echo $$ > "$NOTES.step"; while :; do sleep 0.02; done'
    process = submit(cluster, step, SLURM_RESTART_COUNT=restarts)
    wait_for(cluster / "notes.step")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == status
    assert notes(cluster) == [*TRAIN, "scancel", "--signal=TERM", "17", *then]


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        ((), {"SLURM_JOB_ID": ""}, "runs under SLURM only"),
        (("--workdir=a",), {}, "no --config; name a config"),
        (("--config.seed=1", "--workdir=a"), {}, "no --config; name a config"),
        (("--config=a.py",), {}, "no --workdir; name a folder"),
        ((), {"PATH": "/usr/bin:/bin"}, "no mmjax in"),
    ],
)
def test_slurm_without_what_it_needs(
    cluster: Path, arguments: tuple[str, ...], variables: dict[str, str], message: str
) -> None:
    process = submit(cluster, "", *arguments, **variables)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 2
    assert message in told and len(told.splitlines()) == 1
    assert notes(cluster) == []


def test_slurm_gives_each_gpu_a_process_that_sees_all_of_them() -> None:
    # JAX's detection of SLURM takes the GPU whose number is SLURM_LOCALID.
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", SLURM.read_text(), re.MULTILINE))
    assert options["ntasks-per-node"] == options["gpus-per-node"]
    assert not {"gpus-per-task", "gpu-bind", "ntasks"} & set(options)
    assert options["signal"].startswith("B:TERM@") and "requeue" in options
