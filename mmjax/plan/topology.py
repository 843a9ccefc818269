"""TPU slices and GPU hosts by name, and their devices."""

import functools
import importlib.util
import math
import os
import re
from dataclasses import dataclass
from typing import Any

from mmjax.plan.chips import CHIPS, Chip
from mmjax.types import UserError

# Available shapes, by the number of axes; larger ones of three axes are multiples of 4.
_SHAPES = {
    2: ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    3: ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16"),
    0: ("1", "2", "4", "8"),
}
_NAME = re.compile(r"(?:([1-9]\d*)x)?([a-z]+\d+[a-z]*):([1-9]\d*(?:x[1-9]\d*)*)")

# Lets several processes compile at once, and keeps libtpu from looking for a pod.
_LIBTPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}


@dataclass(frozen=True)
class Topology:
    """TPU slices or GPU hosts, joined by the data center network.

    Attributes:
        chip: its kind of chip.
        shape: of a TPU slice, chips along each axis; (n,) for a host of n GPUs.
        parts: number of slices or hosts.
    """

    chip: Chip
    shape: tuple[int, ...]
    parts: int = 1

    def __str__(self) -> str:
        prefix = f"{self.parts}x" if self.parts > 1 else ""
        return f"{prefix}{self.slice}"

    @property
    def slice(self) -> str:
        """The name of one slice or host."""
        return f"{self.chip.kind}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        return self.parts * math.prod(self.shape)

    @property
    def devices(self) -> int:
        """The number of JAX devices."""
        return self.chips * self.chip.devices

    @property
    def is_tpu(self) -> bool:
        return self.chip.axes > 0


def known() -> str:
    """The known chips and slice shapes, for messages."""
    tpus = {axes: [name for name, chip in CHIPS.items() if chip.axes == axes] for axes in _SHAPES}
    return "; ".join(f"{', '.join(tpus[axes])}: {', '.join(shapes)}" for axes, shapes in _SHAPES.items())


def parse(name: str) -> Topology:
    """Parses `v5e:4x4`, `2xv5e:16x16` (two slices), `h100:8`, `4xh100:8` (four hosts).

    Raises:
        UserError: for an unknown name.
    """
    found = _NAME.fullmatch(name)
    chip = CHIPS.get(found[2]) if found else None
    if not found or chip is None:
        raise UserError(
            f"--topology {name}: unknown; give v5e:4x4, 2xv5e:16x16 or h100:8, for example. Known: {known()}"
        )
    shape = tuple(map(int, found[3].split("x")))
    if len(shape) != (chip.axes or 1) or (not chip.axes and shape[0] > 8):
        raise UserError(f"--topology {name}: {chip.kind} has no such shape; known: {', '.join(_SHAPES[chip.axes])}")
    return Topology(chip, shape, int(found[1] or 1))


def devices(topology: Topology) -> list[Any]:
    """The devices of TPU slices that are not here, to compile for.

    Raises:
        UserError: if libtpu is not installed, or does not know the slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("libtpu, which compiles for TPUs, is not installed; run pip install '.[plan]'")
    return list(_described(topology))


@functools.cache
def _described(topology: Topology) -> tuple[Any, ...]:
    for name, value in _LIBTPU.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(
            platform="tpu", topology_name=topology.slice, num_slices=topology.parts
        ).devices
    except (RuntimeError, ValueError, NotImplementedError) as error:
        shapes = ", ".join(_SHAPES[topology.chip.axes])
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"--topology {topology}: libtpu knows no such slice ({reason}); known: {shapes}") from None
    assert len(found) == topology.devices
    return tuple(found)
