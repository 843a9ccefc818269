"""launch/tpu_vm.py: what a dry run prints, what arrives on a host, and what is done when TPUs are taken away."""

import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import tpu_vm
from slices import parse_topology

from mmjax.types import UserError

ROOT = Path(__file__).parents[2]
WHERE = ("--name=masked", "--project=my-project", "--zone=us-west4-a")
TRAINING = (
    "--config=configs/coco_masked.py:size=256",
    "--workdir=gs://bucket/masked",
    "--config.data.root=gs://bucket/my data",
)


def dry_run(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[list[str]]:
    """The commands that are printed, as a shell would split them."""
    assert tpu_vm.main([*arguments, *WHERE, "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line in lines:
        assert subprocess.run(["bash", "-n", "-c", line]).returncode == 0
    return [shlex.split(line) for line in lines]


def test_a_dry_run_prints_all_of_it_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    printed = dry_run(capsys, "run", "--topology=v5p:4x4x4", "--spot", *TRAINING)
    gcloud = [words for words in printed if words[0] == "gcloud"]
    assert all(words[:4] == ["gcloud", "compute", "tpus", "queued-resources"] for words in gcloud)
    assert all({"--project=my-project", "--zone=us-west4-a"} <= set(words) for words in gcloud)
    actions = [words[4] for words in gcloud]
    assert actions == ["describe", "create", "describe", "ssh", "scp", "ssh", "ssh", "describe", "ssh", "ssh", "delete"]
    assert gcloud[1][5:-2] == [
        "masked",
        "--accelerator-type=v5p-128",
        "--runtime-version=v2-alpha-tpuv5",
        "--node-id=masked",
        "--spot",
    ]
    assert {"--worker=all", "--node=all"} <= set(gcloud[4]) & set(gcloud[5]) & set(gcloud[6])
    assert gcloud[-1][5:-2] == ["masked", "--force", "--quiet"]


def test_several_slices_are_nodes_of_one_queued_resource(capsys: pytest.CaptureFixture[str]) -> None:
    create = dry_run(capsys, "create", "--topology=2xv6e:16x16")[0]
    assert {"--node-count=2", "--node-prefix=masked", "--accelerator-type=v6e-256"} <= set(create)
    assert "--spot" not in create


@pytest.mark.parametrize("action", ["status", "logs", "stop", "delete", "setup"])
def test_what_needs_no_config(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tpu_vm.main([action, *WHERE, "--dry-run"]) == 0
    assert "gcloud compute tpus queued-resources" in capsys.readouterr().out


def until(condition: str, home: Path) -> None:
    """Waits for a shell condition in a home folder."""
    end = time.monotonic() + 60
    while subprocess.run(["bash", "-c", condition], env=host(home), capture_output=True).returncode:
        assert time.monotonic() < end, condition
        time.sleep(0.02)


def host(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "PATH": f"{home}/stand-ins:{os.environ['PATH']}", "KEEP_RUNNING_PAUSE": "0"}


def on_host(home: Path, command: str) -> str:
    return subprocess.run(["bash", "-c", command], env=host(home), capture_output=True, text=True).stdout.strip()


def stand_in(home: Path, name: str, script: str) -> None:
    """A command that a host has, or that must not run here."""
    path = home / "stand-ins" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A host after setup, whose mmjax notes its arguments, and waits for SIGTERM where a file `wait` is there."""
    (tmp_path / "mmjax").symlink_to(ROOT)
    folder = tmp_path / "mmjax-venv" / "bin"
    folder.mkdir(parents=True)
    program = """#!/usr/bin/env bash
printf '%s\\n' "$@" > ~/arguments
trap 'exit 0' TERM
while [ -e ~/wait ]; do sleep 0.02; done
"""
    (folder / "mmjax").write_text(program)
    (folder / "mmjax").chmod(0o755)
    stand_in(tmp_path, "mountpoint", "[ -e ~/mounted ]")
    stand_in(tmp_path, "gcsfuse", 'printf "%s\\n" "$@" >> ~/mounted')
    stand_in(tmp_path, "sudo", 'echo "$*" >> ~/sudo; [ "$1" != tee ] || cat >> ~/sudo')
    yield tmp_path
    (tmp_path / "wait").unlink(missing_ok=True)  # ends what a failed test left running


def test_arguments_arrive_on_the_host_as_they_were_given(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = '--config.name=it\'s "$HOME" & $(touch ~/hacked) *'
    words = dry_run(capsys, "start", "--topology=v5e:4x4", *TRAINING, odd)[0]
    (command,) = [word.removeprefix("--command=") for word in words if word.startswith("--command=")]
    on_host(home, command)
    until("[ -s ~/mmjax-run/status ]", home)
    assert (home / "arguments").read_text().splitlines() == [
        "train",
        TRAINING[0],
        "--workdir=/gcs/bucket/masked",
        TRAINING[2],
        odd,
        "--config.train.checkpoints=gs://bucket/masked/checkpoints",
    ]
    assert not (home / "hacked").exists()
    assert on_host(home, tpu_vm.STATUS) == "0"


def test_the_bucket_is_mounted_once_and_again_after_a_reboot(home: Path) -> None:
    start = tpu_vm.start_command(["mmjax", "train"], "my-bucket")
    for _ in range(2):
        on_host(home, start)
        until("[ -s ~/mmjax-run/status ]", home)
    words = (home / "mounted").read_text().splitlines()
    assert words == [*tpu_vm.GCSFUSE_FLAGS.split(), "my-bucket", "/gcs/my-bucket"]
    assert "--implicit-dirs" in words
    (home / "mounted").unlink()
    on_host(home, start)
    assert (home / "mounted").read_text().splitlines() == words
    until("[ -s ~/mmjax-run/status ]", home)


@pytest.mark.parametrize("broken", ["gcsfuse", "sudo"])
def test_nothing_is_trained_where_the_bucket_cannot_be_mounted(broken: str, home: Path) -> None:
    stand_in(home, broken, "exit 1")
    start = tpu_vm.start_command(["mmjax", "train"], "my-bucket")
    assert subprocess.run(["bash", "-c", start], env=host(home), capture_output=True).returncode == 1
    assert on_host(home, tpu_vm.STATUS) == "none"
    assert not (home / "mmjax-run" / "log").exists()


def test_gcsfuse_is_installed_where_it_is_missing(home: Path) -> None:
    on_host(home, f"set -e; {tpu_vm.INSTALL_GCSFUSE}")
    assert not (home / "sudo").exists()
    (home / "stand-ins" / "gcsfuse").unlink()
    stand_in(home, "curl", "echo KEY")
    stand_in(home, "lsb_release", '[ "$*" = "-c -s" ] && echo jammy')
    on_host(home, f"set -e; {tpu_vm.INSTALL_GCSFUSE}")
    assert (home / "sudo").read_text().splitlines() == [
        "tee /usr/share/keyrings/cloud.google.asc",
        "KEY",
        "tee /etc/apt/sources.list.d/gcsfuse.list",
        "deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt gcsfuse-jammy main",
        "apt-get -qq update",
        "apt-get -qq -y -o DPkg::Lock::Timeout=300 install gcsfuse",
    ]
    assert subprocess.run(["bash", "-n", "-c", tpu_vm.SETUP]).returncode == 0
    assert tpu_vm.SETUP.endswith(tpu_vm.INSTALL_GCSFUSE)


def test_status_and_stop_and_a_second_start(home: Path) -> None:
    assert on_host(home, tpu_vm.STATUS) == "none"
    (home / "wait").touch()
    on_host(home, tpu_vm.start_command(["mmjax", "train"], "bucket"))
    until("[ -s ~/mmjax-run/pid ] && [ -e ~/arguments ]", home)
    assert on_host(home, tpu_vm.STATUS) == "running"
    first = (home / "mmjax-run" / "pid").read_text().strip()
    (home / "arguments").unlink()
    on_host(home, tpu_vm.start_command(["mmjax", "train"], "bucket"))
    until("[ -s ~/mmjax-run/pid ] && [ -e ~/arguments ]", home)
    until(f"! kill -0 {first}", home)
    assert on_host(home, tpu_vm.STATUS) == "running"
    on_host(home, tpu_vm.STOP)
    until("[ -s ~/mmjax-run/status ]", home)
    assert on_host(home, tpu_vm.STATUS) == "143"


def test_what_was_cut_short_is_no_end(home: Path) -> None:
    """A host that is shut down for itself has saved, and has nothing that would say that the training is over."""
    (home / "wait").touch()
    on_host(home, tpu_vm.start_command(["mmjax", "train"], "bucket"))
    until("[ -s ~/mmjax-run/pid ] && [ -e ~/arguments ]", home)
    until("kill -TERM $(cat ~/mmjax-run/pid)", home)
    until("! kill -0 $(cat ~/mmjax-run/group)", home)
    assert on_host(home, tpu_vm.STATUS) == "none"


@dataclass(frozen=True)
class Scripted(tpu_vm.TpuVms):
    """TPU VMs that answer from a script: states in turn, and what the training says in turn."""

    states: list[str] = field(default_factory=list)
    trainings: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)

    def gcloud(self, action: str, *words: str, read: bool = False) -> subprocess.CompletedProcess[str]:
        command = next((word.removeprefix("--command=") for word in words if word.startswith("--command=")), "")
        names = {tpu_vm.SETUP: "setup", tpu_vm.STATUS: "", tpu_vm.LOGS: "logs"}
        name = action if action != "ssh" else names.get(command, command)
        out, error, status = "", "", 0
        if action == "describe":
            out = self.states.pop(0)
            if out in (tpu_vm.ABSENT, tpu_vm.UNKNOWN):
                out, error, status = "", "NOT_FOUND" if out == tpu_vm.ABSENT else "timed out", 1
        elif command == tpu_vm.STATUS:
            answer = self.trainings.pop(0)
            out = answer.rstrip("!").replace(",", "\n")  # of one host after the other
            status = int(not out or answer.endswith("!"))
        elif name != "scp":
            self.done.append(name)
        if words and f"{name} fails" in self.done:
            status = 1
        return subprocess.CompletedProcess([], status, out, error)


def scripted(states: str, trainings: str) -> Scripted:
    answers = (["" if answer == "silent" else answer for answer in text.split()] for text in (states, trainings))
    return Scripted("masked", (), parse_topology("v5e:4x4"), True, False, 0, *answers)


@pytest.mark.parametrize(
    ("states", "trainings", "status", "done"),
    [
        ("ABSENT WAITING_FOR_RESOURCES ACTIVE ACTIVE ACTIVE", "none running 0", 0, "create setup start logs delete"),
        ("ACTIVE ACTIVE ACTIVE ACTIVE", "running running 0", 0, "logs delete"),  # started by an earlier run
        ("ABSENT ACTIVE ACTIVE", "none 2", 2, "create setup start logs delete"),
        ("ABSENT ACTIVE ACTIVE SUSPENDED ABSENT ACTIVE ACTIVE", "none running none 0", 0,
         "create setup start delete create setup start logs delete"),  # taken away, asked for again
        ("ABSENT FAILED ABSENT ACTIVE ACTIVE", "none 0", 0, "create delete create setup start logs delete"),
        ("SUSPENDED ABSENT ACTIVE ACTIVE", "none 0", 0, "delete create setup start logs delete"),
        ("ACTIVE ACTIVE UNKNOWN ACTIVE ACTIVE", "running silent running 0", 0, "logs delete"),  # no answer is no loss
        ("ACTIVE ACTIVE ACTIVE ACTIVE", "running running,none 0,0", 0, "start logs delete"),  # a host was started anew
        ("ACTIVE ACTIVE ACTIVE ACTIVE", "running 0,running 0,0", 0, "logs delete"),
        ("ACTIVE ACTIVE ACTIVE", "running running,134", 134, "logs delete"),  # a host gave up
        ("ACTIVE ACTIVE ACTIVE", "running running,2!", 2, "logs delete"),  # and another one does not answer
        ("ACTIVE ACTIVE" + 10 * " ACTIVE", "running" + 10 * " 0,none", 0, "logs delete"),  # all is done
        ("ACTIVE ACTIVE ACTIVE ACTIVE", "running 143,running 143,143", 143, "logs delete"),  # saving, told by `stop`
        ("ACTIVE ACTIVE ACTIVE", "0,running 0,0", 0, "logs delete"),
        ("UNKNOWN ACTIVE ACTIVE ACTIVE", "silent running 0", 0, "logs delete"),  # nothing is set up under a training
    ],
)  # fmt: skip
def test_run(states: str, trainings: str, status: int, done: str) -> None:
    vms = scripted(states, trainings)
    assert vms.run("start", restarts=3, keep=False) == status
    assert vms.done == done.split()
    assert vms.states == vms.trainings == []


def test_run_keeps_what_it_shall_keep_and_gives_up_in_the_end() -> None:
    vms = scripted("ACTIVE ACTIVE ACTIVE", "running 0")
    vms.run("start", restarts=3, keep=True)
    assert vms.done == ["logs"]
    vms = scripted("ABSENT FAILED ABSENT FAILED", "")
    with pytest.raises(UserError, match="went away 2 times"):
        vms.run("start", restarts=1, keep=True)
    assert vms.done == ["create", "delete", "create", "delete"]


def test_without_an_answer_nothing_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    vms = scripted(" ".join(["UNKNOWN"] * tpu_vm.TRIES), "")
    with pytest.raises(UserError, match="gcloud does not answer"):
        vms.run("start", restarts=3, keep=False)
    assert capsys.readouterr().out == "timed out\n" * tpu_vm.TRIES
    assert not vms.done


def test_a_refused_request_is_not_repeated() -> None:
    vms = scripted("ABSENT", "")
    vms.done.append("create fails")
    with pytest.raises(UserError, match="gcloud create ended with status 1"):
        vms.run("start", restarts=3, keep=False)
    assert vms.done == ["create fails", "create"]


def test_a_failed_setup_leaves_no_doubt() -> None:
    vms = scripted("ABSENT ACTIVE ACTIVE", "none")
    vms.done.append("setup fails")
    with pytest.raises(UserError, match="gcloud ssh ended with status 1"):
        vms.run("start", restarts=3, keep=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("create", "--name=masked", "--zone=z", "--topology=v5e:4x4"), "required: --project"),
        (("create", "--name=masked", "--project=p", "--topology=v5e:4x4"), "required: --zone"),
        (("create", *WHERE, "--topology=tpu7x:4x4x4"), "there are no TPU VMs of it; use launch/gke.py"),
        (("run", *WHERE, "--topology=v5e:5x5", *TRAINING), "v5e comes as"),
        (("run", *WHERE, "--topology=v5e:4x4", *TRAINING, "--config.mesh.data=5"), "does not multiply to the 16"),
        (("stop", *WHERE, "--spot"), "unknown argument --spot"),
        (("begin", *WHERE), "invalid choice: 'begin'"),
        (("run", *WHERE, "--topology=v5e:4x4", *TRAINING), "gcloud is not installed"),
    ],
)
def test_mistakes(arguments: Sequence[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # a gcloud that is installed shall never run
    with pytest.raises(UserError, match=re.escape(message)) as error:
        tpu_vm.main(arguments)
    assert len(str(error.value).splitlines()) == 1
