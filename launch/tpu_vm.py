#!/usr/bin/env python3
"""Trains a config on TPU VMs: queued resources, ssh to all hosts, restarts after preemption, and teardown.

    launch/tpu_vm.py run --name=masked --project=PROJECT --zone=us-west4-a --topology=v5e:4x4 --spot \\
        --config=configs/coco_masked.py:size=256 --workdir=gs://BUCKET/masked --dry-run

`run` does everything until the training is done: create, setup, start, poll every minute, start over after preemption,
and delete. The other actions are its single steps. --dry-run prints all commands and runs none.
"""

import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from slices import Slices, parse_topology
from training import (
    ROOT,
    Parser,
    add_slice_arguments,
    add_training_arguments,
    bucket_folder,
    check_name,
    compiled_folder,
    count,
    mount_folder,
    run_main,
    training_command,
)

from mmjax.types import UserError

ACTIONS = {
    "run": "everything, until the training is done; deletes the TPUs at the end",
    "create": "request the TPUs, and wait until they are active",
    "setup": "copy this checkout to all hosts and install it",
    "start": "start the training on all hosts, in the background",
    "status": "the state of the TPUs and of the training",
    "logs": "the last lines of every host's log",
    "stop": "SIGTERM to all hosts: the training saves and stops",
    "delete": "delete the TPUs, which ends their cost",
}
GONE = ("SUSPENDING", "SUSPENDED", "FAILED", "DELETING")
DONE, STOPPED = "0", "143"  # exit statuses of keep_running.sh
ENDING = "ending"
TRIES = 10  # of a gcloud command that fails
ABSENT, UNKNOWN = "ABSENT", "UNKNOWN"  # no queued resource; its state could not be read
# On every host, in the home folder.
FOLDER = "~/mmjax-run"
INSTALL_GCSFUSE = (
    "command -v gcsfuse > /dev/null || { key=/usr/share/keyrings/cloud.google.asc; "
    "curl -fsS https://packages.cloud.google.com/apt/doc/apt-key.gpg | sudo tee $key > /dev/null; "
    'echo "deb [signed-by=$key] https://packages.cloud.google.com/apt gcsfuse-$(lsb_release -c -s) main" | '
    "sudo tee /etc/apt/sources.list.d/gcsfuse.list > /dev/null; "
    "sudo apt-get -qq update; sudo apt-get -qq -y -o DPkg::Lock::Timeout=300 install gcsfuse; }"
)
SETUP = (
    "set -e; rm -rf ~/mmjax; mkdir ~/mmjax; tar -xzf ~/mmjax.tar.gz -C ~/mmjax; cd ~/mmjax; "
    "python3 -m pip install --quiet --user uv; "
    "~/.local/bin/uv venv --quiet --clear --python 3.13 ~/mmjax-venv; "
    "~/.local/bin/uv pip install --quiet --python ~/mmjax-venv/bin/python '.[tpu,gcs]'; " + INSTALL_GCSFUSE
)
# No metadata cache, since hosts read each other's files; and folders are renamed.
GCSFUSE_FLAGS = (
    "--implicit-dirs --metadata-cache-ttl-secs=0 --metadata-cache-negative-ttl-secs=0 --rename-dir-limit=200000"
)
STOP = f"touch {FOLDER}/stopped; kill -TERM $(cat {FOLDER}/pid)"
LOGS = f"tail -n 40 {FOLDER}/log"
STATUS = f"cd {FOLDER} && {{ cat status || {{ kill -0 $(cat pid) && echo running; }}; }} || echo none"


def mount_command(bucket: str) -> str:
    """A shell command that mounts a bucket unless it is mounted, also after a reboot."""
    folder = mount_folder(bucket)
    return (
        f"{{ mountpoint -q {folder} || {{ sudo umount -l {folder} 2> /dev/null; sudo mkdir -p {folder} && "
        f"sudo chown $(id -u) {folder} && gcsfuse {GCSFUSE_FLAGS} {bucket} {folder}; }}; }}"
    )


def start_command(command: Sequence[str], bucket: str) -> str:
    """A shell command that kills an earlier run, mounts the bucket, and runs `command` in the background.

    Its log, process id and, at the end, exit status are in FOLDER; no status if it was interrupted other than by STOP,
    such as by a reboot of the host.
    """
    kept = shlex.join(["launch/keep_running.sh", "20", *command])
    inner = f"echo $$ > {FOLDER}/group; {kept} & echo $! > {FOLDER}/pid; wait $!; status=$?; "
    inner += f"[ $status -eq 143 -a ! -e {FOLDER}/stopped ] || echo $status > {FOLDER}/status"
    return (
        f"mkdir -p {FOLDER}; kill -KILL -- -$(cat {FOLDER}/group) 2>/dev/null; "
        f"rm -f {FOLDER}/status {FOLDER}/pid {FOLDER}/stopped; "
        f"{mount_command(bucket)} && "
        f"cd ~/mmjax && export PATH=~/mmjax-venv/bin:$PATH JAX_COMPILATION_CACHE_DIR={compiled_folder(bucket)} && "
        f"{{ setsid nohup bash -c {shlex.quote(inner)} > {FOLDER}/log 2>&1 < /dev/null & }}"
    )


@dataclass(frozen=True)
class TpuVms:
    """The TPU VMs of a queued resource.

    Attributes:
        where: --project and --zone of every command.
        slices: what to request; None if nothing is.
        dry_run: print commands, run none.
        pause: seconds between polls.
    """

    name: str
    where: tuple[str, ...]
    slices: Slices | None = None
    spot: bool = False
    dry_run: bool = False
    pause: float = 60

    def gcloud(self, action: str, *words: str, read: bool = False) -> subprocess.CompletedProcess[str]:
        """Runs `gcloud compute tpus queued-resources ACTION NAME`, and captures its output if `read`."""
        command = ["gcloud", "compute", "tpus", "queued-resources", action, *words, *self.where]
        print(shlex.join(command), flush=True)
        if self.dry_run:
            return subprocess.CompletedProcess(command, 0, "", "")
        return subprocess.run(command, text=True, capture_output=read)

    def must(self, action: str, *words: str) -> None:
        """Raises UserError if the command fails."""
        if status := self.gcloud(action, *words).returncode:
            raise UserError(f"gcloud {action} ended with status {status}; see its output above")

    def on_hosts(self, command: str) -> None:
        self.must("ssh", self.name, "--worker=all", "--node=all", f"--command={command}")

    def state(self) -> str:
        """State of the queued resource, such as WAITING_FOR_RESOURCES or ACTIVE, or ABSENT, or UNKNOWN."""
        done = self.gcloud("describe", self.name, "--format=value(state.state)", read=True)
        if done.returncode and "NOT_FOUND" in done.stderr:
            return ABSENT
        return self._output(done) or UNKNOWN

    def training(self) -> str:
        """The state of the training: an exit status, ENDING if some hosts are done, none if one has none, or running.

        The error status of one host is that of all. UNKNOWN unless all of them answer.
        """
        done = self.gcloud("ssh", self.name, "--worker=all", "--node=all", f"--command={STATUS}", read=True)
        answers, complete = done.stdout.split(), self._output(done).split()
        for answer in answers:
            if answer.isdigit() and answer not in (DONE, STOPPED):
                return answer
        if DONE in answers:
            return DONE if set(complete) == {DONE} else ENDING
        return next((answer for answer in ("none", "running", STOPPED) if answer in complete), UNKNOWN)

    def _output(self, done: subprocess.CompletedProcess[str]) -> str:
        """The output of gcloud; "", after printing its error, if it failed."""
        if done.returncode:
            print(done.stderr.strip(), flush=True)
            return ""
        return done.stdout.strip()

    def answered(self, ask: Callable[[], str]) -> str:
        """The result of `state` or `training`, retried while it is UNKNOWN.

        Raises:
            UserError: after TRIES, such as without a valid login.
        """
        for _ in range(TRIES):
            if (answer := ask()) != UNKNOWN or self.dry_run:
                return answer
            time.sleep(self.pause)
        raise UserError(f"{self.name}: gcloud does not answer; see its output above")

    def create(self) -> None:
        assert self.slices is not None
        generation, count = self.slices.generation, self.slices.count
        nodes = [f"--node-id={self.name}"] if count == 1 else [f"--node-count={count}", f"--node-prefix={self.name}"]
        words = [f"--accelerator-type={self.slices.accelerator_type}", f"--runtime-version={generation.runtime}"]
        self.must("create", self.name, *words, *nodes, *(["--spot"] if self.spot else []))

    def wait_until_active(self) -> bool:
        """Waits for the TPUs; False if the request failed or they were preempted."""
        while (state := self.state()) != "ACTIVE" and not self.dry_run:
            if state in (*GONE, ABSENT):
                return False
            print(f"{self.name}: {state}", flush=True)
            time.sleep(self.pause)
        return True

    def setup(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            archive = str(Path(folder) / "mmjax.tar.gz")
            words = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
            pack = f"{shlex.join(words)} | {shlex.join(['tar', '-C', str(ROOT), '-czf', archive, '--null', '-T', '-'])}"
            print(pack, flush=True)
            if not self.dry_run and subprocess.run(["bash", "-o", "pipefail", "-c", pack]).returncode:
                raise UserError(f"{ROOT}: could not be packed; set up from a git checkout without deleted files")
            self.must("scp", archive, f"{self.name}:mmjax.tar.gz", "--worker=all", "--node=all")
        self.on_hosts(SETUP)

    def delete(self) -> None:
        self.must("delete", self.name, "--force", "--quiet")

    def run(self, start: str, restarts: int, keep: bool) -> int:
        """Trains until done, or resumes watching what an earlier run started; returns the exit status.

        Args:
            start: the command of start_command.
        """
        for left in range(restarts, -1, -1):
            status = self.attempt(start)
            if status.isdigit() or self.dry_run:
                self.gcloud("ssh", self.name, "--worker=all", "--node=all", f"--command={LOGS}")
                if not keep:
                    self.delete()
                return int(status or 0)
            print(f"{self.name}: the TPUs are gone; {left} tries left", flush=True)
            self.gcloud("delete", self.name, "--force", "--quiet")
            time.sleep(self.pause)
        raise UserError(f"{self.name}: the TPUs went away {restarts + 1} times; see --restarts")

    def attempt(self, start: str) -> str:
        """The exit status of the training on one set of TPUs; "" if they were preempted before it ended."""
        state = self.answered(self.state)
        if state in GONE:
            return ""
        if state == ABSENT or self.dry_run:
            self.create()
        if not self.wait_until_active():
            return ""
        try:
            if self.answered(self.training) not in ("running", ENDING):
                self.setup()
                self.on_hosts(start)
            ending = 0
            while self.state() not in (*GONE, ABSENT):
                status = self.training()
                ending = ending + 1 if status == ENDING else 0
                if ending == TRIES:  # the steps are done
                    return DONE
                if status.isdigit() or self.dry_run:
                    return status if status.isdigit() else ""
                if status == "none":  # a host was rebooted, or its process stopped
                    self.on_hosts(start)
                time.sleep(self.pause)
        except UserError:
            if self.state() not in (*GONE, ABSENT):
                raise
        return ""


def main(argv: Sequence[str]) -> int:
    parser = Parser(prog="tpu_vm.py", description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for action, summary in ACTIONS.items():
        sub = actions.add_parser(action, help=summary, description=summary, allow_abbrev=False)
        sub.add_argument("--name", required=True, help="of the queued resource")
        sub.add_argument("--project", required=True)
        sub.add_argument("--zone", required=True)
        sub.add_argument("--dry-run", action="store_true", help="print the commands, run none")
        if action in ("run", "create", "start"):
            add_slice_arguments(sub)
        if action in ("run", "start"):
            add_training_arguments(sub)
        if action == "run":
            sub.add_argument("--restarts", type=count, default=50, help="how often to request preempted TPUs again")
            sub.add_argument("--keep", action="store_true", help="do not delete the TPUs at the end")
    arguments, rest = parser.parse_known_args(argv)
    check_name(arguments.name)
    slices = parse_topology(arguments.topology) if "topology" in arguments else None
    if slices and not slices.generation.accelerator:
        raise UserError(f"--topology {arguments.topology}: there are no TPU VMs of it; use launch/gke.py")
    start = ""
    if slices and "config" in arguments:
        start = start_command(training_command(arguments, rest, slices), bucket_folder(arguments.workdir)[0])
    if rest and not start:
        raise UserError(f"unknown argument {rest[0]}; see tpu_vm.py {arguments.action} --help")
    if not (arguments.dry_run or shutil.which("gcloud")):
        raise UserError("gcloud is not installed; see https://cloud.google.com/sdk/docs/install, or add --dry-run")
    where = (f"--project={arguments.project}", f"--zone={arguments.zone}")
    vms = TpuVms(arguments.name, where, slices, getattr(arguments, "spot", False), arguments.dry_run)
    match arguments.action:
        case "run":
            try:
                return vms.run(start, arguments.restarts, arguments.keep)
            except BaseException:
                print(f"{vms.name}: may still exist, and cost money; run again to resume, or delete", flush=True)
                raise
        case "start":
            vms.on_hosts(start)
        case "status":
            print(f"TPUs: {vms.state()}")
            print(f"training: {vms.training()}")
        case "logs":
            vms.on_hosts(LOGS)
        case "stop":
            vms.on_hosts(STOP)
        case "create":
            vms.create()
            if not vms.wait_until_active():
                raise UserError(f"{vms.name}: the request failed; delete it and try again")
        case "setup":
            vms.setup()
        case "delete":
            vms.delete()
    return 0


if __name__ == "__main__":
    run_main(main)
