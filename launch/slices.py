"""TPU slices: names of topologies such as v5e:4x4 in TPU VMs and GKE, and their hosts.

Sources: https://cloud.google.com/tpu/docs/runtimes and .../tpu/docs/v4, v5e, v5p, v6e, tpu7x (names, shapes),
https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus (machine types, node labels, chips a host).
"""

import math
from dataclasses import dataclass

from mmjax.plan.topology import Topology, parse
from mmjax.types import UserError

CHIPS_PER_HOST = 4
_3D = "2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x12 8x8x16"
_2D = "2x2 2x4 4x4 4x8 8x8 8x16 16x16"


@dataclass(frozen=True)
class Generation:
    """A TPU generation.

    Attributes:
        accelerator: prefix of its accelerator types; "" without TPU VMs.
        counted: number that accelerator types count for a chip: 2 cores on v4 and v5p, else 1.
        runtime: software version of its TPU VMs.
        label: GKE's node label cloud.google.com/gke-tpu-accelerator.
        machine: GKE's machine type of hosts with four chips.
        shapes: topologies, chips along each axis.
    """

    accelerator: str
    counted: int
    runtime: str
    label: str
    machine: str
    shapes: tuple[str, ...]


GENERATIONS = {
    "v4": Generation("v4", 2, "tpu-ubuntu2204-base", "tpu-v4-podslice", "ct4p-hightpu-4t", (*_3D.split(), "8x16x16")),
    "v5e": Generation(
        "v5litepod", 1, "v2-alpha-tpuv5-lite", "tpu-v5-lite-podslice", "ct5lp-hightpu-4t", tuple(_2D.split())
    ),
    "v5p": Generation(
        "v5p",
        2,
        "v2-alpha-tpuv5",
        "tpu-v5p-slice",
        "ct5p-hightpu-4t",
        (*_3D.split(), "8x12x16", "8x16x16", "12x16x16", "16x16x16", "16x16x24"),
    ),
    "v6e": Generation("v6e", 1, "v2-alpha-tpuv6e", "tpu-v6e-slice", "ct6e-standard-4t", tuple(_2D.split())),
    "tpu7x": Generation("", 2, "", "tpu7x", "tpu7x-standard-4t", (*_3D.split(), "8x16x16", "12x16x16", "16x16x16")),
}


@dataclass(frozen=True)
class Slices:
    """Equal slices that train one model together, by their names at the cloud provider.

    Attributes:
        topology: by `mmjax plan`.
    """

    topology: Topology

    @property
    def generation(self) -> Generation:
        return GENERATIONS[self.topology.chip.kind]

    @property
    def shape(self) -> str:
        """Topology of each slice, such as 4x4."""
        return "x".join(map(str, self.topology.shape))

    @property
    def count(self) -> int:
        return self.topology.parts

    @property
    def chips(self) -> int:
        """Chips in a slice."""
        return math.prod(self.topology.shape)

    @property
    def hosts(self) -> int:
        """Hosts in a slice, of four chips each (not true of v5litepod-8 and v6e-8 on TPU VMs)."""
        return self.chips // CHIPS_PER_HOST

    @property
    def devices(self) -> int:
        """JAX devices of all slices together."""
        return self.topology.devices

    @property
    def accelerator_type(self) -> str:
        """The accelerator type of a slice in `gcloud compute tpus`."""
        return f"{self.generation.accelerator}-{self.chips * self.generation.counted}"


def parse_topology(text: str) -> Slices:
    """Parses a topology as `mmjax plan` does: v5e:4x4, or 2xv5e:4x4 for two slices.

    Raises:
        UserError: for an unknown topology.
    """
    slices = Slices(parse(text))
    name = slices.topology.chip.kind
    if name not in GENERATIONS:
        raise UserError(f"--topology {text}: not TPUs; one of {', '.join(GENERATIONS)} and a shape, as in v5e:4x4")
    if slices.shape not in slices.generation.shapes:
        raise UserError(f"--topology {text}: {name} comes as {', '.join(slices.generation.shapes)}")
    if slices.count > 1 and slices.hosts == 1:
        raise UserError(f"--topology {text}: each slice has one host; several slices need a topology of several hosts")
    return slices
