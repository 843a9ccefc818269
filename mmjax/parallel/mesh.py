"""The device mesh, and the placement of batches and parameters on it."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from mmjax import config
from mmjax.types import HOST_FIELDS, Batch, UserError, leaf_name

AXES = ("slice", "data", "fsdp", "model")
BATCH = ("slice", "data", "fsdp")  # the axes that split the batch
Rules = Sequence[tuple[str, tuple[str | None, ...]]]


def make_mesh(axes: config.MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh with the axes slice, data, fsdp and model over the given devices (default: all).

    On TPUs, neighbors on the mesh are ICI neighbors, and only the axis slice crosses the data center network (DCN).

    Raises:
        UserError: if the axes do not multiply to the number of devices, or slice is not the number of slices.
    """
    devices = jax.devices() if devices is None else devices
    slices = len({getattr(device, "slice_index", 0) for device in devices if device.platform == "tpu"}) or 1
    sizes = tuple(mesh_sizes(axes, len(devices), slices).values())
    if slices > 1:
        within, across = (1, *sizes[1:]), (slices, 1, 1, 1)
        arranged = mesh_utils.create_hybrid_device_mesh(within, across, devices, allow_split_physical_axes=True)
    else:
        arranged = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(arranged, AXES)


def mesh_sizes(axes: config.MeshConfig, devices: int, slices: int = 1) -> dict[str, int]:
    """The size of each mesh axis for this many devices and slices; see make_mesh."""
    if slices > 1 and axes.slice not in (0, slices):
        raise UserError(f"mesh.slice: {axes.slice}, but the devices are in {slices} slices; take 0 or {slices}")
    given = dict(zip(AXES, (axes.slice or slices, axes.data, axes.fsdp, axes.model), strict=True))
    fixed = math.prod(size for size in given.values() if size != -1)
    left = devices // fixed if devices % fixed == 0 else -1
    sizes = {name: left if size == -1 else size for name, size in given.items()}
    if math.prod(sizes.values()) != devices:
        wanted = " x ".join(f"{name}={size}" for name, size in given.items() if name != "slice" or size > 1)
        raise UserError(f"mesh: {wanted} does not multiply to the {devices} devices there are; one axis may be -1")
    return sizes


@dataclass(frozen=True)
class Placement:
    """Places values on a mesh: batches are sharded over slice, data and fsdp, everything else is replicated."""

    mesh: Mesh | AbstractMesh

    @property
    def batch(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(BATCH))

    @property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def platform(self) -> str:
        """The platform: "cpu", "gpu" or "tpu"; an abstract mesh is of GPUs, which are planned analytically."""
        return str(self.mesh.devices.flat[0].platform) if isinstance(self.mesh, Mesh) else "gpu"

    @property
    def compiler_options(self) -> dict[str, str] | None:
        """XLA options for the training step on these devices.

        On TPUs, disables the windowed einsum: parameters are gathered before the matrix product. Otherwise XLA
        multiplies by one shard at a time, and reads and writes partial sums of the activations once for each.
        """
        return {"xla_jf_spmd_threshold_for_windowed_einsum_mib": "1000000"} if self.platform == "tpu" else None

    @property
    def num_batch_shards(self) -> int:
        """The number of shards of a batch."""
        return math.prod(self.mesh.shape[axis] for axis in BATCH)

    def with_sharding_constraint(self, x: jax.Array) -> jax.Array:
        """Shards activations over the examples and, for [b, t, d], the tokens, where these divide evenly.

        Between layers the axis model shards tokens (sequence parallelism, Korthikanti et al. 2022, arXiv:2205.05198);
        within layers it shards heads and hidden units.
        """
        if x.shape[0] % self.num_batch_shards:
            return x
        tokens = "model" if x.ndim == 3 and x.shape[1] % self.mesh.shape["model"] == 0 else None
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, PartitionSpec(BATCH, tokens)))

    def shard_map(self, kernel: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        """Maps a kernel of arrays [b, t, h, k] over the devices, each with its own examples and heads."""

        def sharded(*arrays: jax.Array) -> jax.Array:
            spec = PartitionSpec(None if arrays[0].shape[0] % self.num_batch_shards else BATCH, None, "model")
            mapped = jax.shard_map(kernel, mesh=self.mesh, in_specs=spec, out_specs=spec, check_vma=False)
            output: jax.Array = mapped(*arrays)
            return output

        return sharded

    def check_batch(self, name: str, size: int) -> None:
        """Raises UserError unless a batch of this size divides evenly over the devices."""
        shards = self.num_batch_shards
        if size % shards:
            named = " x ".join(axis for axis in BATCH if axis != "slice" or self.mesh.shape[axis] > 1)
            raise UserError(
                f"{name}: {size} does not split over {shards} devices (mesh {named}); take a multiple of {shards}"
            )

    def shard_batch(self, batch: Batch) -> dict[str, Any]:
        """Places this process's part of a batch on the devices, without the fields that stay on the host."""
        fields = {name: value for name, value in batch.items() if name not in HOST_FIELDS}
        return {name: jax.make_array_from_process_local_data(self.batch, value) for name, value in fields.items()}


def match_rules(params: Any, rules: Rules, mesh: Mesh | AbstractMesh) -> Any:
    """The NamedSharding of each parameter, by the first rule whose pattern matches its whole name.

    Args:
        params: a tree of arrays or shapes.
        rules: pairs of a pattern and, for each array axis, a mesh axis or None.

    Raises:
        UserError: a table of all parameters without a rule, rules without a parameter and axes that do not divide.
    """
    problems: list[tuple[str, str]] = []
    used: set[int] = set()

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = leaf_name(path)
        matching = [i for i, (pattern, _) in enumerate(rules) if re.fullmatch(pattern, name)]
        if not matching:
            problems.append((name, f"no rule for this parameter of shape {leaf.shape}"))
            return NamedSharding(mesh, PartitionSpec())
        used.add(matching[0])
        axes = rules[matching[0]][1]
        if len(axes) != leaf.ndim:
            problems.append((name, f"rule {rules[matching[0]][0]} names {len(axes)} axes, the shape is {leaf.shape}"))
        for axis, length in zip(axes, leaf.shape, strict=False):
            if axis is not None and length % mesh.shape[axis]:
                problems.append((name, f"{axis}={mesh.shape[axis]} does not divide {length} of shape {leaf.shape}"))
        return NamedSharding(mesh, PartitionSpec(*axes))

    shardings = jax.tree_util.tree_map_with_path(sharding, params)
    problems += [(pattern, "no parameter for this rule") for i, (pattern, _) in enumerate(rules) if i not in used]
    if problems:
        width = max(len(name) for name, _ in problems)
        raise UserError("sharding rules:\n" + "\n".join(f"  {name.ljust(width)}  {what}" for name, what in problems))
    return shardings
