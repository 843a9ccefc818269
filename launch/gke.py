#!/usr/bin/env python3
"""Prints a JobSet that trains a config on TPU slices of a GKE cluster.

    launch/gke.py --name=masked --config=configs/coco_masked.py:size=256 --workdir=gs://BUCKET/masked \\
        --topology=v5e:4x4 --image=REGION-docker.pkg.dev/PROJECT/REPOSITORY/mmjax:TAG > job.yaml
    kubectl apply -f job.yaml

The config is resolved and checked against the slices first; see docs/launch.md for the cluster and the image.
"""

import sys
from collections.abc import Sequence
from typing import Any

import yaml
from slices import CHIPS_PER_HOST, Slices, parse_topology
from training import (
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

CONTAINER = "train"
SPOT = "cloud.google.com/gke-spot"
# The sidecar that mounts the bucket, without limits on CPU, memory and disk.
SIDECAR = {f"gke-gcsfuse/{limit}-limit": "0" for limit in ("cpu", "memory", "ephemeral-storage")}
# No metadata cache, since hosts read each other's files; and folders are renamed.
MOUNT_OPTIONS = (
    "implicit-dirs,metadata-cache:ttl-secs:0,metadata-cache:negative-ttl-secs:0,file-system:rename-dir-limit:200000"
)


def jobset(
    name: str,
    command: Sequence[str],
    slices: Slices,
    image: str,
    bucket: str,
    *,
    namespace: str = "default",
    queue: str = "",
    service_account: str = "",
    spot: bool = False,
    restarts: int = 100,
    grace: int = 120,
) -> dict[str, Any]:
    """The manifest: one Job a slice, one pod a host; all are restarted when one dies.

    Exit status 2, a user error, fails the JobSet immediately. Any other failure counts as one of `restarts`.

    Args:
        bucket: mounted in every pod by the Cloud Storage FUSE CSI driver.
        grace: seconds between SIGTERM and SIGKILL.
    """
    generation = slices.generation
    volume = {"bucketName": bucket, "mountOptions": MOUNT_OPTIONS}
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": grace,
        "nodeSelector": {
            "cloud.google.com/gke-tpu-accelerator": generation.label,
            "cloud.google.com/gke-tpu-topology": slices.shape,
        },
        "containers": [
            {
                "name": CONTAINER,
                "image": image,
                # Kubernetes replaces $(NAME), and $$ by $
                "command": ["launch/keep_running.sh", "0", *(word.replace("$", "$$") for word in command)],
                "env": [{"name": "JAX_COMPILATION_CACHE_DIR", "value": compiled_folder(bucket)}],
                "ports": [{"containerPort": 8471}, {"containerPort": 8431}],  # libtpu, and its metrics
                "resources": {"limits": {"google.com/tpu": CHIPS_PER_HOST}},
                "volumeMounts": [{"name": "bucket", "mountPath": mount_folder(bucket)}],
            }
        ],
        "volumes": [{"name": "bucket", "csi": {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": volume}}],
    }
    if spot:
        pod["nodeSelector"][SPOT] = "true"
        pod["tolerations"] = [{"key": SPOT, "operator": "Equal", "value": "true", "effect": "NoSchedule"}]
    if service_account:
        pod["serviceAccountName"] = service_account
    if slices.count > 1:  # slices communicate over the hosts' network
        pod |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
        volume["hostNetworkPodKSA"] = "true"  # else the driver does not know the service account
    metadata: dict[str, Any] = {"name": name, "namespace": namespace}
    if queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": queue}
    if slices.hosts > 1:  # one Job per node pool, which is a slice
        metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    mistake = {"action": "FailJob", "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": [2]}}
    job = {
        "parallelism": slices.hosts,
        "completions": slices.hosts,
        "completionMode": "Indexed",
        "backoffLimit": 0,
        "podFailurePolicy": {"rules": [mistake]},
        "template": {"metadata": {"annotations": {"gke-gcsfuse/volumes": "true"} | SIDECAR}, "spec": pod},
    }
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "failurePolicy": {
                "maxRestarts": restarts,
                "rules": [{"name": "userMistake", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
            },
            "replicatedJobs": [{"name": "slice", "replicas": slices.count, "template": {"spec": job}}],
        },
    }


def node_pool_command(slices: Slices, spot: bool) -> str:
    """The command that creates the node pool of a slice."""
    words = ["gcloud container node-pools create POOL --cluster=CLUSTER --location=LOCATION"]
    words.append(f"--machine-type={slices.generation.machine} --num-nodes={slices.hosts}")
    if slices.hosts > 1:
        words.append(f"--tpu-topology={slices.shape}")
    return " ".join(words) + (" --spot" if spot else "")


def main(argv: Sequence[str]) -> int:
    parser = Parser(prog="gke.py", description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("--name", required=True, help="of the JobSet")
    add_training_arguments(parser)
    add_slice_arguments(parser)
    parser.add_argument("--image", required=True, help="built from launch/Dockerfile, with an immutable tag")
    parser.add_argument("--namespace", default="default")
    parser.add_argument("--queue", type=str, default="", help="Kueue's LocalQueue; default: start immediately")
    parser.add_argument("--service-account", type=str, default="", help="Kubernetes account that may write the workdir")
    parser.add_argument("--restarts", type=count, default=100, help="maximum restarts of all pods")
    parser.add_argument("--grace", type=count, default=120, help="seconds to save after SIGTERM")
    arguments, rest = parser.parse_known_args(argv)
    check_name(arguments.name)
    slices = parse_topology(arguments.topology)
    manifest = jobset(
        arguments.name,
        training_command(arguments, rest, slices),
        slices,
        arguments.image,
        bucket_folder(arguments.workdir)[0],
        namespace=arguments.namespace,
        queue=arguments.queue,
        service_account=arguments.service_account,
        spot=arguments.spot,
        restarts=arguments.restarts,
        grace=arguments.grace,
    )
    print(f"# Needs {slices.count} node pools, each made by\n# {node_pool_command(slices, arguments.spot)}")
    yaml.safe_dump(manifest, sys.stdout, sort_keys=False, width=10_000)
    return 0


if __name__ == "__main__":
    run_main(main)
