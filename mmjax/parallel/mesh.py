"""The device mesh, and how batches and whole values are placed on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mmjax import config
from mmjax.types import HOST_FIELDS, Batch, UserError

AXES = ("data", "fsdp", "model")


def make_mesh(axes: config.Mesh, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes data, fsdp and model over the given devices (default: all).

    Raises:
        UserError: where the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [axes.data, axes.fsdp, axes.model]
    fixed = int(np.prod([size for size in sizes if size != -1]))
    if -1 in sizes and len(devices) % fixed == 0:
        sizes[sizes.index(-1)] = len(devices) // fixed
    if int(np.prod(sizes)) != len(devices):
        wanted = " x ".join(
            f"{name}={size}" for name, size in zip(AXES, (axes.data, axes.fsdp, axes.model), strict=True)
        )
        raise UserError(f"mesh: {wanted} does not multiply to the {len(devices)} devices there are; one axis may be -1")
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3, devices=devices)


@dataclass(frozen=True)
class Placement:
    """Puts values on a mesh: batches split over data and fsdp, everything else whole on each device."""

    mesh: Mesh

    @property
    def batch(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(("data", "fsdp")))

    @property
    def whole(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def check_batch(self, name: str, size: int) -> None:
        """Raises UserError where a batch of this size cannot be split evenly."""
        ways = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        if size % ways:
            raise UserError(
                f"{name}: {size} does not split over {ways} devices (mesh data x fsdp); take a multiple of {ways}"
            )

    def put(self, batch: Batch) -> dict[str, Any]:
        """This process's part of a batch, to the devices; fields that stay on the host are left out."""
        fields = {name: value for name, value in batch.items() if name not in HOST_FIELDS}
        return {name: jax.make_array_from_process_local_data(self.batch, value) for name, value in fields.items()}
