"""The batch slice of a process, and a single process."""

from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.config import MeshConfig
from mmjax.parallel import Placement, make_mesh, processes
from mmjax.types import UserError


class Where:
    """A sharding whose devices belong to several processes."""

    def __init__(self, sharding: NamedSharding, owners: dict[int, int]):
        self.mesh, self.sharding, self.owners = sharding.mesh, sharding, owners

    def devices_indices_map(self, shape: tuple[int, ...]) -> dict[Any, Any]:
        found = self.sharding.devices_indices_map(shape)
        return {Owned(self.owners[device.id]): index for device, index in found.items()}


class Owned:
    def __init__(self, process_index: int):
        self.process_index = process_index


def parts(mesh: MeshConfig, owners: list[int], monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    where = Where(Placement(make_mesh(mesh)).batch, dict(enumerate(owners)))
    found = []
    for process in range(max(owners) + 1):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        found.append(processes.process_batch_slice.__wrapped__(where))  # past the check of its argument's type
    return found


@pytest.mark.parametrize(("mesh", "owners", "expected"), [
    (MeshConfig(8, 1, 1), [0] * 8, [(0, 1)]),
    (MeshConfig(8, 1, 1), [0, 0, 0, 0, 1, 1, 1, 1], [(0, 2), (1, 2)]),
    (MeshConfig(2, 4, 1), [0, 0, 1, 1, 2, 2, 3, 3], [(0, 4), (1, 4), (2, 4), (3, 4)]),
    (MeshConfig(8, 1, 1), [0, 1, 0, 1, 0, 1, 0, 1], [(0, 2), (1, 2)]),  # as hosts lie on a torus
    (MeshConfig(4, 1, 2), [0, 0, 0, 0, 1, 1, 1, 1], [(0, 2), (1, 2)]),
    (MeshConfig(1, 1, 8), [0, 0, 0, 0, 1, 1, 1, 1], [(0, 1), (0, 1)]),  # the model is split, the batch is not
])  # fmt: skip
def test_process_batch_slice(
    mesh: MeshConfig, owners: list[int], expected: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert parts(mesh, owners, monkeypatch) == expected


def test_unequal_process_slices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="2 processes cannot each hold an equal part of the batch"):
        parts(MeshConfig(8, 1, 1), [0, 0, 0, 1, 1, 1, 1, 1], monkeypatch)
    with pytest.raises(UserError, match="cannot each hold an equal part"):
        parts(MeshConfig(4, 1, 2), [0, 1, 1, 1, 0, 0, 0, 1], monkeypatch)


def test_single_process() -> None:
    assert processes.run_on_primary(lambda: [1, "two"]) == [1, "two"]
    assert processes.all_gather_objects({"a": 1}) == [{"a": 1}]
    with pytest.raises(UserError, match="no"):
        processes.run_on_primary(lambda: (_ for _ in ()).throw(UserError("no")))


@pytest.mark.parametrize("status", ["yes", "-1", "256", ""])
def test_invalid_stopped_status(status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMJAX_STOPPED_STATUS", status)
    with pytest.raises(UserError, match="MMJAX_STOPPED_STATUS: must be an exit status from 0 to 255, not"):
        processes.stopped_status()


def test_place() -> None:
    placement = Placement(make_mesh(MeshConfig(2, 2, 2)))
    tree = {"a": np.arange(16.0, dtype=np.float32).reshape(8, 2), "b": np.int32(3)}
    placed = processes.place(tree, placement.replicated)
    np.testing.assert_array_equal(placed["a"], tree["a"])
    assert placed["b"].sharding == placement.replicated
    split = processes.place(tree["a"], NamedSharding(placement.mesh, PartitionSpec("fsdp")))
    assert split.addressable_shards[0].data.shape == (4, 2)


@pytest.mark.parametrize("text", ["0", "soon", "-3"])
def test_invalid_heartbeat(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(processes.HEARTBEAT, text)
    with pytest.raises(UserError, match=f"^MMJAX_HEARTBEAT_SECONDS: must be a number of seconds .*, not '{text}'"):
        processes.connect()
