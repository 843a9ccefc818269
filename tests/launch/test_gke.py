"""The manifest of launch/gke.py: valid for every topology, and what it asks for."""

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gke
import jsonschema
import pytest
import tpu_vm
import yaml
from slices import GENERATIONS, parse_topology
from training import run_main

from mmjax.types import UserError

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((Path(__file__).parent / "jobset.schema.json").read_text())
TOPOLOGIES = [f"{name}:{shape}" for name, generation in GENERATIONS.items() for shape in generation.shapes]
POD = "spec.replicatedJobs.0.template.spec.template"
BASE = (
    "--name=masked",
    "--config=configs/coco_masked.py:size=256",
    "--workdir=gs://bucket/masked",
    "--config.data.root=gs://bucket/my data",
    "--image=europe-docker.pkg.dev/project/repository/mmjax:1a2b3c4",
)


def manifest(topology: str = "v5e:4x4", command: tuple[str, ...] = ("mmjax",), **more: Any) -> Any:
    return gke.jobset("masked", command, parse_topology(topology), "image:1", "my-bucket", **more)


def check(document: Any) -> None:
    jsonschema.validate(document, SCHEMA, cls=jsonschema.Draft202012Validator)


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_every_topology_makes_a_jobset(topology: str) -> None:
    document = manifest(topology, queue="tpu", service_account="trainer", spot=True)
    check(document)
    job = document["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    chips = parse_topology(topology).chips
    assert job["parallelism"] * pod["containers"][0]["resources"]["limits"]["google.com/tpu"] == chips
    assert job["completions"] == job["parallelism"]
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == topology.partition(":")[2]
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert document["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "tpu"}


@pytest.mark.parametrize("topology", ["v5e:4x4", "3xv6e:4x4"])
def test_the_bucket_is_mounted_in_every_pod(topology: str) -> None:
    template = manifest(topology)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    compiled = {"name": "JAX_COMPILATION_CACHE_DIR", "value": "/gcs/my-bucket/mmjax-compiled"}
    assert template["spec"]["containers"][0]["env"] == [compiled]  # where pods of later starts find it
    assert template["metadata"]["annotations"]["gke-gcsfuse/volumes"] == "true"
    (volume,) = template["spec"]["volumes"]
    (mount,) = template["spec"]["containers"][0]["volumeMounts"]
    assert mount == {"name": volume["name"], "mountPath": "/gcs/my-bucket"}
    assert volume["csi"]["driver"] == "gcsfuse.csi.storage.gke.io"
    attributes = volume["csi"]["volumeAttributes"]
    assert attributes["bucketName"] == "my-bucket"
    assert "implicit-dirs" in attributes["mountOptions"].split(",")
    # On the host's network the driver does not see the pod's service account by itself.
    assert attributes.get("hostNetworkPodKSA") == ("true" if template["spec"].get("hostNetwork") else None)


def test_both_mounts_are_alike() -> None:
    flags = [word.removeprefix("--") for word in tpu_vm.GCSFUSE_FLAGS.split()]
    # gcsfuse's flags are its configuration's names: metadata-cache-ttl-secs=0 is metadata-cache:ttl-secs:0.
    options = [re.sub(r":(?=[0-9])", "=", option) for option in gke.MOUNT_OPTIONS.split(",")]
    options = [option.removeprefix("file-system:").replace(":", "-") for option in options]
    assert options == flags


def test_several_slices_are_several_jobs_on_the_hosts_network() -> None:
    document = manifest("3xv6e:4x4")
    check(document)
    replicated = document["spec"]["replicatedJobs"][0]
    pod = replicated["template"]["spec"]["template"]["spec"]
    assert (replicated["replicas"], replicated["template"]["spec"]["parallelism"]) == (3, 4)
    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")


def test_a_mistake_ends_it_and_all_else_starts_it_again() -> None:
    policy = manifest()["spec"]["failurePolicy"]
    job = manifest()["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert policy["maxRestarts"] == 100
    assert policy["rules"][0]["action"] == "FailJobSet"
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2]
    assert (
        job["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"]
        == (job["template"]["spec"]["containers"][0]["name"])
    )
    assert job["backoffLimit"] == 0  # one lost pod fails its Job, and so starts all pods again
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # or there may be no podFailurePolicy


def test_kubernetes_leaves_the_command_as_it_is() -> None:
    # As Kubernetes documents it: $(NAME) is replaced, $$(NAME) becomes $(NAME).
    words = ("mmjax", "train", "--config.name=a $(HOME) $x $$", "two words")
    command = manifest(command=words)["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    sent = command[0]["command"]
    assert sent[:2] == ["launch/keep_running.sh", "0"]
    assert tuple(re.sub(r"\$\$", "$", word) for word in sent[2:]) == words
    assert not any(re.search(r"(?<!\$)(\$\$)*\$\(", word) for word in sent)


def damage(document: Any, where: str, change: Callable[[Any], None]) -> Any:
    document = copy.deepcopy(document)
    part = document
    for key in where.split("."):
        part = part[int(key)] if key.isdigit() else part[key]
    change(part)
    return document


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("spec", lambda part: part.update(maxRestarts=3)),
        ("spec.failurePolicy", lambda part: part.update(maxRestarts="3")),
        ("spec.failurePolicy.rules.0", lambda part: part.update(action="Restart")),
        ("spec.failurePolicy.rules.0", lambda part: part.pop("name")),
        ("spec.replicatedJobs.0.template.spec", lambda part: part.update(paralelism=3)),
        ("spec.replicatedJobs.0.template.spec.template.spec", lambda part: part.update(restartPolicy="Always")),
        ("spec.replicatedJobs.0.template.spec.template.spec.nodeSelector", lambda part: part.update(spot=True)),
        ("metadata", lambda part: part.update(name="My_run")),
        (f"{POD}.metadata.annotations", lambda part: part.update({"gke-gcsfuse/volumes": True})),
        (f"{POD}.metadata", lambda part: part.update(anotations={})),
        (f"{POD}.spec.volumes.0", lambda part: part.pop("csi")),
        (f"{POD}.spec.volumes.0.csi", lambda part: part.pop("driver")),
        (f"{POD}.spec.volumes.0.csi.volumeAttributes", lambda part: part.update(hostNetworkPodKSA=True)),
        (f"{POD}.spec.containers.0.volumeMounts.0", lambda part: part.pop("mountPath")),
    ],
)
def test_the_schema_notices(where: str, change: Callable[[Any], None]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check(damage(manifest(), where, change))


def test_the_command_prints_a_manifest_for_kubectl() -> None:
    arguments = [*BASE, "--topology=v5p:4x4x4", "--spot", "--queue=tpu"]
    done = subprocess.run(
        [sys.executable, "launch/gke.py", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    document = yaml.safe_load(done.stdout)
    check(document)
    container = document["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    assert container["command"][2:] == [
        "mmjax",
        "train",
        "--config=configs/coco_masked.py:size=256",
        "--workdir=/gcs/bucket/masked",
        "--config.data.root=gs://bucket/my data",
        "--config.train.checkpoints=gs://bucket/masked/checkpoints",
    ]
    assert container["volumeMounts"][0]["mountPath"] == "/gcs/bucket"
    assert "--machine-type=ct5p-hightpu-4t --num-nodes=16 --tpu-topology=4x4x4 --spot" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*BASE,), "the following arguments are required: --topology"),
        ((*BASE[1:], "--topology=v5e:4x4"), "required: --name"),
        ((*BASE, "--topology=v5e:3x3"), "v5e comes as 2x2"),
        ((*BASE, "--topology=v5e:4x4", "--name=My_run"), "--name My_run: must be up to 40"),
        ((*BASE, "--topology=v5e:4x4", "--workdir=runs/masked"), "--workdir runs/masked: must be in a bucket"),
        ((*BASE, "--topology=v5e:4x4", "--workdir=gs://bucket"), "--workdir gs://bucket: must be in a bucket"),
        ((*BASE, "--topology=v5e:4x4", "--workdir=gs://bucket/../x"), "must be in a bucket"),
        ((*BASE, "--topology=v5e:4x4", "--workdir=gs://$x/masked"), "must be in a bucket"),
        ((*BASE, "--topology=v5e:4x4", "--config=configs/none.py"), "no file configs/none.py"),
        ((*BASE, "--topology=v5e:4x4", "--config=/etc/hosts"), "--config /etc/hosts: is outside of"),
        ((*BASE, "--topology=v5e:4x4", "--config.model.wdth=3"), "model.wdth: no such field"),
        ((*BASE, "--topology=v5e:4x4", "--config.train.batch=3"), "does not split over 16 devices"),
        ((*BASE, "--topology=v5e:4x4", "--qeue=tpu"), "unknown argument --qeue=tpu"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as error:
        gke.main(arguments)
    assert len(str(error.value).splitlines()) == 1


def test_a_mistake_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["launch/gke.py", *BASE, "--topology=v9:4x4"])
    with pytest.raises(SystemExit) as ended:
        run_main(gke.main)
    out, error = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert error.startswith("gke.py: --topology v9:4x4: unknown")
    assert len(error.splitlines()) == 1
