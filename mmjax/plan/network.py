"""The time of collectives, by the rates of the links they use."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmjax.plan.hlo import Collective
from mmjax.plan.topology import Topology

ICI, DCN = "interconnect", "data center network"


@dataclass(frozen=True)
class Traffic:
    """The collectives of one kind over the same mesh axes, in one step.

    Attributes:
        kind: of the collectives.
        axes: the mesh axes along which the devices of a group differ, as in "data+fsdp".
        sent: bytes that each device sends.
        seconds: by network: ICI within a slice (or NVLink within a host), DCN between them.
    """

    kind: str
    axes: str
    sent: float
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Network:
    """A mesh on the chips of a topology.

    Attributes:
        mesh: sizes of its axes by name, in order.
        places: of each device in mesh order: slice, coordinates of its chip, core.
    """

    topology: Topology
    mesh: Mapping[str, int]
    places: Sequence[tuple[int, ...]]

    def axes(self, group: Sequence[int]) -> str:
        """The mesh axes along which the devices of a group differ."""
        indices = np.unravel_index(np.asarray(group), tuple(self.mesh.values()))
        return "+".join(name for name, along in zip(self.mesh, indices, strict=True) if len(set(along)) > 1)

    def traffic(self, collective: Collective) -> Traffic:
        return Traffic(collective.kind, self.axes(collective.group), collective.sent, self.seconds(collective))

    def seconds(self, collective: Collective) -> dict[str, float]:
        """The least time of all runs of a collective in a step, by network.

        Bidirectional rings along each torus axis of the group (one direction, if the axis is not a ring). Over several
        slices, each chip sends its share of its slice's gathered or reduced array.
        """
        places = [self.places[i] for i in collective.group]
        local = [place for place in places if place[0] == places[0][0]]
        slices, chip = len({place[0] for place in places}), self.topology.chip
        near = len(places) // slices
        found = {}
        if slices > 1:  # each of the `near` devices in a slice sends its share of the array
            across = dataclasses.replace(collective, group=tuple(range(slices))).sent / near
            found[DCN] = across * chip.devices / chip.network_rate
        if near > 1:
            within = dataclasses.replace(collective, group=tuple(range(near))).sent
            found[ICI] = within / self._rate(collective.kind, local)
        return found

    def _rate(self, kind: str, places: Sequence[tuple[int, ...]]) -> float:
        """The bytes a second of a device to others in its slice or host."""
        chip = self.topology.chip
        if not self.topology.is_tpu:
            return chip.link_rate
        spans = [len(set(along)) for along in zip(*places, strict=True)][1 : 1 + chip.axes]
        if kind == "collective-permute":
            return 2 * chip.link_rate / chip.devices  # permutations come in pairs, one in each direction
        shape = self.topology.shape
        # Three axes are rings only together: optical switches join cubes of 4 x 4 x 4 chips (Jouppi et al. 2023).
        rings = [side % chip.ring == 0 for side in shape]
        rings = [all(rings)] * 3 if chip.axes == 3 else rings
        links = sum(
            2 if span == side and ring else 1 for span, side, ring in zip(spans, shape, rings, strict=True) if span > 1
        )
        # The cores of a chip communicate within it, taken to be as fast as all its links.
        return chip.link_rate * (links or 2 * chip.axes) / chip.devices


def places_of(topology: Topology, devices: Sequence[Any]) -> list[tuple[int, ...]]:
    """The place of each device of a mesh; GPUs are numbered host by host."""
    if topology.is_tpu:
        return [(getattr(d, "slice_index", 0) or 0, *d.coords, d.core_on_chip) for d in devices]
    each = math.prod(topology.shape)
    return [(i // each, i % each, 0) for i in range(topology.devices)]
