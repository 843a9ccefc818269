"""Times of collectives, by hand from the rates of the links."""

import itertools

import pytest

from mmjax.plan.hlo import Collective
from mmjax.plan.network import DCN, ICI, Network
from mmjax.plan.topology import parse


def network(name: str, **mesh: int) -> Network:
    """The chips of each slice in the order of their coordinates, on a mesh in the same order."""
    topology = parse(name)
    inside = [(*place, 0, 0)[:3] for place in itertools.product(*map(range, topology.shape))]
    places = [
        (part, *place, core)
        for part in range(topology.parts)
        for place in inside
        for core in range(topology.chip.devices)
    ]
    return Network(topology, mesh, places)


def test_axes_of_a_group() -> None:
    found = network("v5e:4x4", slice=1, data=2, fsdp=4, model=2)
    assert found.axes((0, 1)) == "model"
    assert found.axes((0, 2, 4, 6)) == "fsdp"
    assert found.axes((0, 2, 4, 6, 8, 10, 12, 14)) == "data+fsdp"


@pytest.mark.parametrize(
    ("name", "group", "rate"),
    [
        ("v5e:4x4", range(16), 2 * 50e9),  # no axis of 4 chips is a ring
        ("v5e:4x4", range(4), 50e9),
        ("v5e:16x16", range(256), 4 * 50e9),  # two rings
        ("v5e:16x16", range(0, 256, 16), 2 * 50e9),  # one
        ("v5e:16x16", range(8), 50e9),  # half of one
        ("v5p:4x4x4", range(64), 6 * 100e9),
        ("v5p:2x2x1", range(4), 2 * 100e9),
        ("v5p:2x4x4", range(32), 3 * 100e9),  # no whole cube: nothing closes to a ring
        ("v6e:16x16", range(256), 4 * 100e9),
        ("tpu7x:4x4x4", range(128), 3 * 100e9),  # of each of the two devices of a chip
        ("h100:8", range(8), 450e9),
    ],
)
def test_rates_of_groups(name: str, group: range, rate: float) -> None:
    collective = Collective("all-gather", 8 * 10**9, tuple(group), 3)
    n = len(group)
    found = network(name, data=parse(name).devices).seconds(collective)
    if name.startswith("h100"):
        found = Network(parse(name), {"data": 8}, [(0, i, 0) for i in range(8)]).seconds(collective)
    assert found == {ICI: pytest.approx(3 * 8e9 * (n - 1) / n / rate)}


def test_traffic_between_slices() -> None:
    found = network("2xv5e:4x4", slice=2, data=16)
    apart = found.seconds(Collective("all-reduce", 10**9, (0, 16)))
    assert apart == {DCN: pytest.approx(1e9 / 3.125e9)}  # half of it there and half of it back
    together = found.seconds(Collective("all-reduce", 16 * 10**9, tuple(range(32))))
    assert together == {
        DCN: pytest.approx(16e9 / 16 / 3.125e9),
        ICI: pytest.approx(2 * 16e9 * 15 / 16 / 100e9),
    }
