"""Launchers: a mistake is one line and status 2, and is told before anything is started, installed or waited for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import ROOT

from mmjax.types import UserError

sys.path.insert(0, str(ROOT / "launch"))

import gke
import tpu_vm
from training import Parser, count

PROCESSES = [sys.executable, str(ROOT / "launch" / "processes.py")]
GKE = {
    "--name": "masked",
    "--config": f"{ROOT}/configs/quickstart.py",
    "--workdir": "gs://bucket/masked",
    "--topology": "v5e:4x4",
    "--image": "image:1",
}
WHERE = ("--name=masked", "--project=p", "--zone=z", "--topology=v5e:4x4", "--dry-run")
TRAINING = (f"--config={ROOT}/configs/quickstart.py", "--workdir=gs://bucket/masked")
# The first process ends, with a mistake or by a crash, and the other one tells at once, and at length, that it lost it.
LOST = """
import os, sys, time
if os.environ["OMPI_COMM_WORLD_RANK"] == "0":
    print("mmjax: no such thing", file=sys.stderr, flush=True)
    os.rename(sys.argv[1] + "/here", sys.argv[1] + "/gone")
    os._exit(int(sys.argv[2]))
while not os.path.exists(sys.argv[1] + "/gone"):
    time.sleep(0.001)
print("F1128 lost the coordination service\\n" * 5, file=sys.stderr, flush=True)
time.sleep(60)
"""
# `mmjax train` in two processes, of which all find a mistake, or that of a number.
MISTAKEN = """
import os, sys, time
from mmjax import cli
from mmjax.parallel import processes
from mmjax.types import UserError

processes.EXIT_SECONDS = 1  # for which a process waits here for one that sleeps

def fail(argv):
    if sys.argv.pop() in ("all", os.environ["OMPI_COMM_WORLD_RANK"]):
        time.sleep(0.5 * int(os.environ["OMPI_COMM_WORLD_RANK"]))
        raise UserError("no such thing")
    time.sleep(60)

cli._run = fail
sys.exit(cli.main())
"""


def told(function: object, *arguments: str) -> str:
    with pytest.raises(UserError) as error:
        assert callable(function)
        function(arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("option", "value"), [
    *((name, "") for name in (*GKE, "--namespace")), ("--image", " "),
    ("--restarts", "-1"), ("--restarts", ""), ("--restarts", "1e3"), ("--restarts", "2147483648"), ("--grace", "-1"),
])  # fmt: skip
def test_gke_refuses_what_the_cluster_would(option: str, value: str) -> None:
    assert option in told(gke.main, *(f"{name}={text}" for name, text in (GKE | {option: value}).items()))


def test_gke_takes_no_restarts_and_no_queue(capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"{name}={text}" for name, text in GKE.items()]
    assert gke.main([*words, "--restarts=0", "--queue=", "--service-account="]) == 0
    assert "maxRestarts: 0\n" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", ["--restarts=-1", "--project=", "--zone=", "--name="])
def test_tpu_vm_refuses_what_the_cloud_would(wrong: str) -> None:
    assert wrong.partition("=")[0] in told(tpu_vm.main, "run", *WHERE, *TRAINING, wrong)


@given(st.text(max_size=12) | st.integers().map(str))
def test_numbers_of_launchers(text: str) -> None:
    parser = Parser(prog="x")
    parser.add_argument("--restarts", type=count)
    try:
        assert 0 <= parser.parse_args([f"--restarts={text}"]).restarts < 2**31
    except UserError as error:
        assert "--restarts" in str(error)


@pytest.mark.parametrize("arguments", [
    [], ["-n", "x", "--", "true"], ["-n", "0", "--", "true"], ["-n", "2", "--restarts=-1", "--", "true"],
    ["-n", "2", "--pause=nan", "--", "true"], ["-n", "2", "--grace=-1", "--", "true"], ["-n", "2"],
])  # fmt: skip
def test_processes_tells_a_mistake_in_one_line(arguments: list[str]) -> None:
    done = subprocess.run([*PROCESSES, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("launch/processes.py: ")


@pytest.mark.parametrize("status", [2, 7])
def test_processes_shows_not_what_follows_from_a_death(status: int, tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    program = ["--", sys.executable, "-c", LOST, str(tmp_path), str(status)]
    command = [*PROCESSES, "-n", "2", "--restarts=0", *program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    lines = done.stderr.splitlines()
    assert done.returncode == status and lines[0] == "mmjax: no such thing"
    assert all(line.startswith("launch/processes.py: ") for line in lines[1:])


@pytest.mark.parametrize("who", ["all", "0"])
def test_a_mistake_in_several_processes_is_one_line(who: str) -> None:
    """The first one holds the coordination service; JAX ends the others where they lose it."""
    kept = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    command = [*PROCESSES, "-n", "2", "--", sys.executable, "-c", MISTAKEN, "train", who]
    done = subprocess.run(command, env=kept, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "mmjax: no such thing\n"


@pytest.mark.parametrize("argument", [
    "--config=configs/none.py", "--config=configs", "--config=configs/none.py:tiny", "--config=", "--workdir=",
    "--config=~/none.py", "--steps=3",
])  # fmt: skip
def test_quickstart_checks_its_arguments_before_it_installs(argument: str) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHON": "/no/python"}  # nothing can be installed; and there is no HOME
    command = ["bash", str(ROOT / "launch" / "quickstart.sh"), argument]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("quickstart.sh: ")


@pytest.mark.parametrize("config", ["configs/quickstart.py", "2024:05:01/r.py:tiny", "~/r.py:size=64,tiny"])
def test_quickstart_finds_configs_as_mmjax_does(config: str, tmp_path: Path) -> None:
    for name in ("launch", "configs", "2024:05:01"):
        (tmp_path / name).mkdir()
    for name in ("quickstart.sh", "environment.sh"):
        (tmp_path / "launch" / name).symlink_to(ROOT / "launch" / name)
    for name in ("configs/quickstart.py", "2024:05:01/r.py", "r.py"):
        (tmp_path / name).touch()
    environment = {"PATH": os.environ["PATH"], "PYTHON": "/no/python", "HOME": str(tmp_path)}
    command = ["bash", str(tmp_path / "launch" / "quickstart.sh"), f"--config={config}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "PYTHON=/no/python does not run" in done.stderr  # it comes to the installation
