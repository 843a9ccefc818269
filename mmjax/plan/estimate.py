"""Analytical estimates of memory and traffic, before and beside the compiler's."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmjax.plan.hlo import Collective, first_group
from mmjax.plan.report import ACTIVATIONS, BATCH, GRADIENTS, STATE, TEMPORARIES, USABLE, Plan


def collectives(
    parameters: Iterable[tuple[Sequence[int], Any]], mesh: Mapping[str, int], itemsize: int, accumulate: int = 1
) -> list[Collective]:
    """The collectives of data parallelism and fully sharded data parallelism (FSDP) in a step.

    Parameters sharded over fsdp are all-gathered in the forward and backward pass, and their gradients
    reduce-scattered; over data and slice gradients are all-reduced. Those of tensor parallelism, the axis model, are
    left out.

    Args:
        parameters: shape, and mesh axis of each array axis.
        itemsize: bytes of a number in the computation's dtype.
        accumulate: number of microbatches, each of which sends all of this.
    """
    gathered, summed = 0, 0
    for shape, axes in parameters:
        size = math.prod(shape) // math.prod(mesh[axis] for axis in axes if axis not in (None, "fsdp"))
        split = "fsdp" in axes
        gathered += size if split else 0
        summed += size // mesh["fsdp"] if split else size
    inner, outer = (
        first_group(tuple(mesh.values()), [name in axes for name in mesh]) for axes in (("fsdp",), ("slice", "data"))
    )
    found = [
        Collective("all-gather", gathered * itemsize, inner, 2 * accumulate),
        Collective("reduce-scatter", gathered * itemsize, inner, accumulate),
        Collective("all-reduce", summed * itemsize, outer, accumulate),
    ]
    return [each for each in found if each.sent]


def compiled_memory(draft: Mapping[str, int], stats: Any, devices: int) -> dict[str, int]:
    """A chip's memory in bytes by content, which sums up to the compiler's total.

    Args:
        draft: the analytical estimate.
        stats: the compiler's `memory_analysis()`, for one device.
        devices: devices in a chip.
    """
    state = {name: draft[name] for name in STATE if name in draft}
    arguments = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    rest = (arguments + stats.generated_code_size_in_bytes) * devices - sum(state.values())
    temporary = stats.temp_size_in_bytes * devices
    activations = min(draft.get(ACTIVATIONS, 0), temporary)
    return state | {ACTIVATIONS: activations, TEMPORARIES: temporary - activations, BATCH: rest}


def too_much(plan: Plan, used: int, options: Sequence[str]) -> str:
    """A one-line error: what does not fit in a chip's memory, and what would.

    Args:
        plan: an analytical one.
        used: bytes a device, by the compiler or the plan.
        options: of the command line, that reduce memory with this config.
    """
    capacity, chip = plan.topology.chip.hbm_bytes, plan.topology.chip
    state = sum(plan.memory.get(name, 0) for name in (*STATE, GRADIENTS))
    sizes = ", ".join(f"{name} {size / 2**30:.2f} GiB" for name, size in plan.memory.items())
    wanted = f"the step needs {used * chip.devices / 2**30:.2f} GiB of a chip's {capacity / 2**30:.0f} GiB ({sizes})"
    if state > USABLE * capacity:
        return f"{wanted}; parameters and optimizer alone do not fit; {_split_further(plan, state)}"
    temporaries = max(used * chip.devices - plan.hbm_bytes + plan.memory.get(TEMPORARIES, 0), 0)
    fits = dataclasses.replace(plan, memory={**plan.memory, TEMPORARIES: temporaries}).largest_batch
    smaller = [f"--config.train.batch={fits}"] if 0 < fits < plan.batch else []
    tried = ", ".join([*smaller, *options]) or "a larger slice"
    return f"{wanted}; activations do not fit; try {tried}"


def _split_further(plan: Plan, state: int) -> str:
    """How to shard a state of this many bytes a chip over more devices."""
    needed = math.ceil(state * plan.mesh["fsdp"] / (USABLE * plan.topology.chip.hbm_bytes))
    room = math.prod(size for axis, size in plan.mesh.items() if axis not in ("slice", "model"))
    for fsdp in range(needed, room + 1):
        if room % fsdp == 0:
            return f"shard them over more devices, --config.mesh.fsdp={fsdp} --config.mesh.data={room // fsdp}"
    return f"they need {needed} devices along mesh.fsdp, but a slice has {room}: take a larger one"
