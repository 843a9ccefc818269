"""Meshes that fit the devices, and those that do not."""

import jax
import numpy as np
import pytest

from mmjax.config import Mesh
from mmjax.parallel import Placement, make_mesh
from mmjax.types import UserError


@pytest.mark.parametrize(
    ("axes", "expected"),
    [(Mesh(), (8, 1, 1)), (Mesh(2, 2, 2), (2, 2, 2)), (Mesh(1, -1, 4), (1, 2, 4)), (Mesh(1, 1, 8), (1, 1, 8))],
)
def test_axes(axes, expected):
    assert tuple(make_mesh(axes).shape.values()) == expected


@pytest.mark.parametrize("axes", [Mesh(3, 1, 1), Mesh(-1, 3, 1), Mesh(2, 2, 1)])
def test_axes_that_do_not_multiply_to_the_devices(axes):
    with pytest.raises(UserError, match="does not multiply to the 8 devices"):
        make_mesh(axes)


def test_batches_are_split_and_strings_stay():
    placement = Placement(make_mesh(Mesh(2, 2, 2)))
    value = np.arange(12, dtype=np.float32).reshape(4, 3)
    placed = placement.put({"image": value, "id": ["a"] * 4, "captions": [["b"]] * 4})
    assert set(placed) == {"image"}
    np.testing.assert_array_equal(jax.device_get(placed["image"]), value)
    assert {shard.data.shape for shard in placed["image"].addressable_shards} == {(1, 3)}


def test_batch_that_does_not_split():
    placement = Placement(make_mesh(Mesh()))
    placement.check_batch("train.batch", 16)
    with pytest.raises(UserError, match=r"train.batch: 12 does not split over 8 devices"):
        placement.check_batch("train.batch", 12)
