"""Meshes that fit the devices and those that do not, and placement on them."""

import jax
import numpy as np
import pytest

from mmjax.config import MeshConfig
from mmjax.parallel import Placement, make_mesh, mesh_sizes
from mmjax.types import UserError


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        (MeshConfig(), (1, 8, 1, 1)),
        (MeshConfig(2, 2, 2), (1, 2, 2, 2)),
        (MeshConfig(1, -1, 4), (1, 1, 2, 4)),
        (MeshConfig(1, 1, 8), (1, 1, 1, 8)),
        (MeshConfig(-1, 2, 1, slice=2), (2, 2, 2, 1)),
    ],
)
def test_axes(axes, expected):
    assert tuple(make_mesh(axes).shape.values()) == expected


@pytest.mark.parametrize("axes", [MeshConfig(3, 1, 1), MeshConfig(-1, 3, 1), MeshConfig(2, 2, 1), MeshConfig(slice=3)])
def test_axes_that_do_not_multiply_to_the_devices(axes):
    with pytest.raises(UserError, match="does not multiply to the 8 devices"):
        make_mesh(axes)


def test_batches_are_sharded_and_host_fields_dropped():
    placement = Placement(make_mesh(MeshConfig(2, 2, 2)))
    value = np.arange(12, dtype=np.float32).reshape(4, 3)
    placed = placement.shard_batch({"image": value, "id": ["a"] * 4, "captions": [["b"]] * 4})
    assert set(placed) == {"image"}
    np.testing.assert_array_equal(jax.device_get(placed["image"]), value)
    assert {shard.data.shape for shard in placed["image"].addressable_shards} == {(1, 3)}


def test_batch_must_divide_evenly():
    placement = Placement(make_mesh(MeshConfig()))
    placement.check_batch("train.batch", 16)
    with pytest.raises(UserError, match=r"train.batch: 12 does not split over 8 devices"):
        placement.check_batch("train.batch", 12)


def test_slice_axis_must_match_the_devices():
    assert mesh_sizes(MeshConfig(-1, 4, 1), 16, 2) == {"slice": 2, "data": 2, "fsdp": 4, "model": 1}
    with pytest.raises(UserError, match=r"mesh.slice: 4, but the devices are in 2 slices"):
        mesh_sizes(MeshConfig(slice=4), 16, 2)


def test_activations_are_sharded_where_they_divide():
    placement = Placement(make_mesh(MeshConfig(1, 2, 2, slice=2)))
    shapes = {(8, 6, 5): (2, 3, 5), (8, 3, 5): (2, 3, 5), (8, 6, 5, 3): (2, 6, 5, 3), (6, 6, 5): (6, 6, 5)}
    for whole, part in shapes.items():
        found = jax.jit(placement.with_sharding_constraint)(np.zeros(whole, np.float32))
        assert {shard.data.shape for shard in found.addressable_shards} == {part}


def test_shard_map_runs_the_kernel_on_each_device():
    placement = Placement(make_mesh(MeshConfig(2, 1, 4)))
    seen = []

    def kernel(q, k, v):
        seen.append(q.shape)
        return q + k * v

    for rows, part in ((2, (1, 3, 2, 5)), (3, (3, 3, 2, 5))):
        q, k, v = (jax.random.normal(jax.random.key(i), (rows, 3, 8, 5)) for i in range(3))
        found = jax.jit(placement.shard_map(kernel))(q, k, v)
        np.testing.assert_array_equal(found, q + k * v)
        assert seen.pop() == part
