"""What can be said of memory and traffic by arithmetic, before and beside the compiler."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mmjax.plan.hlo import Collective
from mmjax.plan.report import Plan

PARAMETERS, OPTIMIZER, AVERAGE = "parameters", "optimizer", "average"
GRADIENTS, ACTIVATIONS, TEMPORARIES, BATCH = "gradients", "activations", "temporaries", "batch and program"
_STATE = (PARAMETERS, OPTIMIZER, AVERAGE)


def collectives(
    parameters: Iterable[tuple[Sequence[int], Any]], mesh: Mapping[str, int], itemsize: int
) -> list[Collective]:
    """What data and fully sharded data parallelism send in a step for parameters in float32.

    A parameter that is split over fsdp is gathered in the type that is computed in, forward and backward, and its
    gradient is summed up in float32 by parts; over data and slice gradients are summed up whole. What splitting the
    layers themselves over the axis model sends is left out.

    Args:
        parameters: shape, and mesh axis of each array axis.
        itemsize: bytes of a number of the type that is computed in.
    """
    gathered, summed = 0, 0
    for shape, axes in parameters:
        size = math.prod(shape) // math.prod(mesh[axis] for axis in axes if axis not in (None, "fsdp"))
        split = "fsdp" in axes
        gathered += size if split else 0
        summed += size // mesh["fsdp"] if split else size
    found = []
    if gathered and mesh["fsdp"] > 1:
        group = _group(mesh, ("fsdp",))
        found += [
            Collective("all-gather", gathered * itemsize, group, 2),
            Collective("reduce-scatter", 4 * gathered, group),
        ]
    outer = ("slice", "data")
    if math.prod(mesh[axis] for axis in outer) > 1:
        found.append(Collective("all-reduce", 4 * summed, _group(mesh, outer)))
    return found


def _group(mesh: Mapping[str, int], axes: Sequence[str]) -> tuple[int, ...]:
    """The devices of a mesh that differ from the first along these axes only."""
    ids = np.arange(math.prod(mesh.values())).reshape(tuple(mesh.values()))
    return tuple(map(int, ids[tuple(slice(None) if name in axes else 0 for name in mesh)].reshape(-1)))


def compiled_memory(draft: Mapping[str, int], stats: Any, devices: int) -> dict[str, int]:
    """Bytes of a chip by what they hold, which together are exactly what the compiler says.

    Args:
        draft: what arithmetic says.
        stats: the compiler's `memory_analysis()`, of one of the chip's devices.
        devices: how many of these a chip has.
    """
    state = {name: draft[name] for name in _STATE if name in draft}
    arguments = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    rest = (arguments + stats.generated_code_size_in_bytes) * devices - sum(state.values())
    temporary = stats.temp_size_in_bytes * devices
    activations = min(draft.get(ACTIVATIONS, 0), temporary)
    return state | {ACTIVATIONS: activations, TEMPORARIES: temporary - activations, BATCH: rest}


def largest_batch(plan: Plan, ways: int) -> int:
    """About the largest batch that fits into memory: what grows with the batch is taken to grow in proportion."""
    fixed = sum(plan.memory.get(name, 0) for name in (*_STATE, GRADIENTS))
    grows = plan.hbm_bytes - fixed
    if GRADIENTS not in plan.memory:  # the compiler's temporaries hold them
        held = min(plan.memory.get(PARAMETERS, 0), plan.memory.get(TEMPORARIES, 0))
        fixed, grows = fixed + held, grows - held
    room = plan.topology.chip.hbm_bytes - fixed
    if grows <= 0 or room <= 0:
        return 0
    each = plan.batch // ways
    return int(room / (grows / each)) * ways


def too_much(plan: Plan, used: int) -> str:
    """In one line: what does not fit into a chip's memory, and what would.

    Args:
        plan: by arithmetic.
        used: bytes a device that the compiler wanted, or that the plan has.
    """
    capacity, chip = plan.topology.chip.hbm_bytes, plan.topology.chip
    state = sum(plan.memory.get(name, 0) for name in (*_STATE, GRADIENTS))
    sizes = ", ".join(f"{name} {size / 2**30:.2f} GiB" for name, size in plan.memory.items())
    wanted = f"the step wants {used * chip.devices / 2**30:.2f} GiB of a chip's {capacity / 2**30:.0f} GiB ({sizes})"
    if state > capacity:
        least = math.ceil(state * plan.mesh["fsdp"] / capacity)
        advice = (
            f"parameters and optimizer alone do not fit: split them over more chips, --config.mesh.fsdp={least} or more"
        )
    else:
        fits = largest_batch(
            dataclasses.replace(
                plan, memory={**plan.memory, TEMPORARIES: max(used * chip.devices - plan.hbm_bytes, 0)}
            ),
            math.prod(plan.mesh[axis] for axis in ("slice", "data", "fsdp")),
        )
        smaller = f"--config.train.batch={fits}, " if fits else ""
        advice = (
            f"activations do not fit: try {smaller}--config.optimizer.accumulate=2, --config.model.remat=true "
            f"or --config.model.attention={'splash' if plan.topology.is_tpu else 'cudnn'}"
        )
    return f"{wanted}; {advice}"
