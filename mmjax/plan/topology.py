"""TPU slices and GPU hosts by name, their devices, and the published rates of their chips."""

import functools
import importlib.util
import math
import os
import re
from dataclasses import dataclass
from typing import Any

from jax.experimental import topologies

from mmjax.types import UserError


@dataclass(frozen=True)
class Chip:
    """A chip and its networks, by the vendor's peak rates, in units a second; none is measured here.

    Attributes:
        kind: its usual name.
        flops: dense bfloat16 operations a second.
        hbm_bytes, hbm_rate: capacity, and bytes a second.
        link_rate: bytes a second in one direction: of one ICI link (TPU), or of all NVLinks together (GPU).
        network_rate: bytes a second in one direction: a chip's share of the data center network.
        axes: of the torus of a TPU slice; 0 for GPUs, of which those of a host are fully connected.
        ring: an axis of a slice is a ring if its length is a multiple of this; with three axes, all are or none is.
        sources: where the rates are published.
        devices: JAX devices in a chip.
    """

    kind: str
    flops: float
    hbm_bytes: int
    hbm_rate: float
    link_rate: float
    network_rate: float
    axes: int
    ring: int
    sources: tuple[str, ...]
    devices: int = 1


_GIB, _GB = 2**30, 10**9
_TPU, _GPU = "https://docs.cloud.google.com/tpu/docs", "https://www.nvidia.com/en-us/data-center"
_DGX = "https://docs.nvidia.com/dgx"

# TPUs: flops, HBM and "Inter Chip Interconnect" (both directions of all links) from the table of specifications of each
# page: v5e 400 GB/s over 4 links, v5p 1,200 over 6, v6e 800 over 4, tpu7x 1,200 over 6. v4: 50 GB/s a link (Jouppi et
# al. 2023, table 4). Data center network: v5e 6.4 Tb/s for a pod of 256; v5p 50 and v6e, tpu7x 100 Gb/s a chip; v4 is
# not published: as v5e.
# GPUs: from the data sheets, without sparsity, NVLink in one direction, and the network of the DGX system.
_CHIPS = (
    # kind, flops, HBM: bytes and rate, link rate, network rate, axes, ring, sources
    Chip("v4", 275e12, 32 * _GIB, 1.2e12, 50e9, 3.125e9, 3, 4, (f"{_TPU}/v4", "https://arxiv.org/abs/2304.01433")),
    Chip("v5e", 197e12, 16 * _GIB, 819e9, 50e9, 3.125e9, 2, 16, (f"{_TPU}/v5e",)),
    Chip("v5p", 459e12, 95 * _GIB, 2.765e12, 100e9, 6.25e9, 3, 4, (f"{_TPU}/v5p",)),
    Chip("v6e", 918e12, 32 * _GIB, 1.638e12, 100e9, 12.5e9, 2, 16, (f"{_TPU}/v6e", f"{_TPU}/tpu7x")),
    Chip("tpu7x", 2307e12, 192 * _GIB, 7.38e12, 100e9, 12.5e9, 3, 4, (f"{_TPU}/tpu7x",), devices=2),
    Chip("a100", 312e12, 80 * _GB, 2.039e12, 300e9, 25e9, 0, 0, (f"{_GPU}/a100/", f"{_DGX}/dgxa100-user-guide/")),
    Chip("h100", 989e12, 80 * _GB, 3.35e12, 450e9, 50e9, 0, 0, (f"{_GPU}/h100/", f"{_DGX}/dgxh100-user-guide/")),
    Chip("h200", 989e12, 141 * _GB, 4.8e12, 450e9, 50e9, 0, 0, (f"{_GPU}/h200/", f"{_DGX}/dgxh100-user-guide/")),
    Chip("b200", 2250e12, 180 * _GB, 8e12, 900e9, 50e9, 0, 0, (f"{_GPU}/dgx-b200/", f"{_DGX}/dgxb200-user-guide/")),
)
CHIPS = {chip.kind: chip for chip in _CHIPS}

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


def parse(name: str) -> Topology:
    """Parses `v5e:4x4`, `2xv5e:16x16` (two slices), `h100:8`, `4xh100:8` (four hosts).

    Raises:
        UserError: for an unknown name.
    """
    found = _NAME.fullmatch(name)
    chip = CHIPS.get(found[2]) if found else None
    if not found or chip is None:
        kinds = {axes: ", ".join(kind for kind, chip in CHIPS.items() if chip.axes == axes) for axes in _SHAPES}
        known = "; ".join(f"{kinds[axes]}: {', '.join(shapes)}" for axes, shapes in _SHAPES.items())
        raise UserError(f"--topology {name}: unknown; give v5e:4x4, 2xv5e:16x16 or h100:8, for example. Known: {known}")
    shape = tuple(map(int, found[3].split("x")))
    if len(shape) != (chip.axes or 1) or (not chip.axes and shape[0] > 8):
        raise UserError(f"--topology {name}: {chip.kind} has no such shape; known: {', '.join(_SHAPES[chip.axes])}")
    return Topology(chip, shape, int(found[1] or 1))


@functools.cache
def devices(topology: Topology) -> tuple[Any, ...]:
    """The devices of TPU slices that are not here, to compile for.

    Raises:
        UserError: if libtpu is not installed, or does not know the slice.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("libtpu, which compiles for TPUs, is not installed; run pip install '.[plan]'")
    for name, value in _LIBTPU.items():
        os.environ.setdefault(name, value)
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
