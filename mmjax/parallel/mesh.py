"""The device mesh, and how batches and whole values are placed on it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from mmjax import config
from mmjax.types import HOST_FIELDS, Batch, UserError

AXES = ("slice", "data", "fsdp", "model")
BATCH = ("slice", "data", "fsdp")  # the axes that split the batch
_SPLIT = PartitionSpec(BATCH)


def make_mesh(axes: config.MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes slice, data, fsdp and model over the given devices (default: all).

    On TPUs neighbors on the mesh are neighbors in the network, and the axis slice alone goes over the data center's.

    Raises:
        UserError: where the axes do not multiply to the number of devices, or slice is not the number of slices.
    """
    devices = jax.devices() if devices is None else devices
    slices = _slices(devices)
    sizes = tuple(mesh_sizes(axes, len(devices), slices).values())
    if slices > 1:
        within, across = (1, *sizes[1:]), (slices, 1, 1, 1)
        arranged = mesh_utils.create_hybrid_device_mesh(within, across, devices, allow_split_physical_axes=True)
    else:
        arranged = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(arranged, AXES)


def mesh_sizes(axes: config.MeshConfig, devices: int, slices: int = 1) -> dict[str, int]:
    """The size of each mesh axis over so many devices in so many slices; see make_mesh."""
    if slices > 1 and axes.slice not in (0, slices):
        raise UserError(f"mesh.slice: {axes.slice}, but the devices are in {slices} slices; take 0 or {slices}")
    given = dict(zip(AXES, (axes.slice or slices, axes.data, axes.fsdp, axes.model), strict=True))
    fixed = int(np.prod([size for size in given.values() if size != -1]))
    left = devices // fixed if devices % fixed == 0 else -1
    sizes = {name: left if size == -1 else size for name, size in given.items()}
    if int(np.prod(list(sizes.values()))) != devices:
        wanted = " x ".join(f"{name}={size}" for name, size in given.items() if name != "slice" or size > 1)
        raise UserError(f"mesh: {wanted} does not multiply to the {devices} devices there are; one axis may be -1")
    return sizes


def _slices(devices: Sequence[jax.Device]) -> int:
    """How many slices the devices are in: only TPUs know of any."""
    return len({getattr(device, "slice_index", 0) for device in devices if device.platform == "tpu"}) or 1


@dataclass(frozen=True)
class Placement:
    """Puts values on a mesh: batches split over slice, data and fsdp, everything else whole on each device."""

    mesh: Mesh | AbstractMesh

    @property
    def batch(self) -> NamedSharding:
        return NamedSharding(self.mesh, _SPLIT)

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def compiler_options(self) -> dict[str, str] | None:
        """What the compiler is told of a training step on these devices.

        On TPUs: to gather the parameters of a layer before they are used. Of itself it multiplies with one part after
        the other as they come in, and so reads and writes sums of activations once for each.
        """
        tpu = isinstance(self.mesh, Mesh) and self.mesh.devices.flat[0].platform == "tpu"
        return {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"} if tpu else None

    @property
    def num_batch_shards(self) -> int:
        """Into how many parts batches are split."""
        return int(np.prod([self.mesh.shape[axis] for axis in BATCH]))

    def with_sharding_constraint(self, x: jax.Array) -> jax.Array:
        """Says of activations that the examples, and the tokens of [b, t, d], are split as far as they divide.

        Between layers each device of the axis model holds other tokens (sequence parallelism: Korthikanti et al. 2022,
        arXiv:2205.05198); inside of them it holds other heads and hidden units.
        """
        if x.shape[0] % self.num_batch_shards:
            return x
        tokens = "model" if x.ndim == 3 and x.shape[1] % self.mesh.shape["model"] == 0 else None
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, PartitionSpec(BATCH, tokens)))

    def shard_map(self, kernel: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        """A kernel of arrays [b, t, h, k] that each device runs on its own examples and heads."""

        def each(*arrays: jax.Array) -> jax.Array:
            spec = PartitionSpec(None if arrays[0].shape[0] % self.num_batch_shards else BATCH, None, "model")
            spread: jax.Array = jax.shard_map(kernel, mesh=self.mesh, in_specs=spec, out_specs=spec, check_vma=False)(
                *arrays
            )
            return spread

        return each

    def check_batch(self, name: str, size: int) -> None:
        """Raises UserError where a batch of this size cannot be split evenly."""
        if size % self.num_batch_shards:
            named = " x ".join(axis for axis in BATCH if axis != "slice" or self.mesh.shape[axis] > 1)
            raise UserError(
                f"{name}: {size} does not split over {self.num_batch_shards} devices (mesh {named}); take a multiple of {self.num_batch_shards}"
            )

    def shard_batch(self, batch: Batch) -> dict[str, Any]:
        """This process's part of a batch, to the devices; fields that stay on the host are left out."""
        fields = {name: value for name, value in batch.items() if name not in HOST_FIELDS}
        return {name: jax.make_array_from_process_local_data(self.batch, value) for name, value in fields.items()}
