"""Accelerator chips and their published rates.

Rates are the vendors' peaks, in bytes and dense bfloat16 floating-point operations per second; none is measured here.
"""

from dataclasses import dataclass

_TPU_DOCS = "https://docs.cloud.google.com/tpu/docs"


@dataclass(frozen=True)
class Chip:
    """A chip and its networks.

    Attributes:
        kind: its usual name.
        flops: bfloat16 operations a second.
        hbm_bytes, hbm_rate: capacity, and bytes a second.
        link_rate: bytes a second in one direction: of one ICI link (TPU), or of all NVLinks together (GPU).
        network_rate: bytes a second in one direction: a chip's share of the data center network.
        axes: of the torus of a TPU slice; 0 for GPUs, of which those of a host are fully connected.
        ring: an axis of a slice is a ring if its length is a multiple of this; with three axes, all are or none is.
        devices: JAX devices in a chip.
        sources: where the rates are published.
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


_GIB = 2**30

# TPUs: flops, HBM and "Inter Chip Interconnect" (both directions of all links) from the table of specifications of each
# page: v5e 400 GB/s over 4 links, v5p 1,200 over 6, v6e 800 over 4, tpu7x 1,200 over 6. v4: 50 GB/s a link (Jouppi et
# al. 2023, table 4). Data center network: v5e 6.4 Tb/s for a pod of 256; v5p 50 and v6e, tpu7x 100 Gb/s a chip; v4 is
# not published: as v5e.
# GPUs: from the data sheets, without sparsity, NVLink in one direction, and the network of the DGX system.
CHIPS = {
    chip.kind: chip
    for chip in (
        Chip(
            kind="v4",
            flops=275e12,
            hbm_bytes=32 * _GIB,
            hbm_rate=1.2e12,
            link_rate=50e9,
            network_rate=3.125e9,
            axes=3,
            ring=4,
            sources=(f"{_TPU_DOCS}/v4", "https://arxiv.org/abs/2304.01433"),
        ),
        Chip(
            kind="v5e",
            flops=197e12,
            hbm_bytes=16 * _GIB,
            hbm_rate=819e9,
            link_rate=50e9,
            network_rate=3.125e9,
            axes=2,
            ring=16,
            sources=(f"{_TPU_DOCS}/v5e",),
        ),
        Chip(
            kind="v5p",
            flops=459e12,
            hbm_bytes=95 * _GIB,
            hbm_rate=2.765e12,
            link_rate=100e9,
            network_rate=6.25e9,
            axes=3,
            ring=4,
            sources=(f"{_TPU_DOCS}/v5p",),
        ),
        Chip(
            kind="v6e",
            flops=918e12,
            hbm_bytes=32 * _GIB,
            hbm_rate=1.638e12,
            link_rate=100e9,
            network_rate=12.5e9,
            axes=2,
            ring=16,
            sources=(f"{_TPU_DOCS}/v6e", f"{_TPU_DOCS}/tpu7x"),
        ),
        Chip(
            kind="tpu7x",
            flops=2307e12,
            hbm_bytes=192 * _GIB,
            hbm_rate=7.38e12,
            link_rate=100e9,
            network_rate=12.5e9,
            axes=3,
            ring=4,
            sources=(f"{_TPU_DOCS}/tpu7x",),
            devices=2,
        ),
        Chip(
            kind="a100",
            flops=312e12,
            hbm_bytes=80 * 10**9,
            hbm_rate=2.039e12,
            link_rate=300e9,
            network_rate=25e9,
            axes=0,
            ring=0,
            sources=(
                "https://www.nvidia.com/en-us/data-center/a100/",
                "https://docs.nvidia.com/dgx/dgxa100-user-guide/",
            ),
        ),
        Chip(
            kind="h100",
            flops=989e12,
            hbm_bytes=80 * 10**9,
            hbm_rate=3.35e12,
            link_rate=450e9,
            network_rate=50e9,
            axes=0,
            ring=0,
            sources=(
                "https://www.nvidia.com/en-us/data-center/h100/",
                "https://docs.nvidia.com/dgx/dgxh100-user-guide/",
            ),
        ),
        Chip(
            kind="h200",
            flops=989e12,
            hbm_bytes=141 * 10**9,
            hbm_rate=4.8e12,
            link_rate=450e9,
            network_rate=50e9,
            axes=0,
            ring=0,
            sources=(
                "https://www.nvidia.com/en-us/data-center/h200/",
                "https://docs.nvidia.com/dgx/dgxh100-user-guide/",
            ),
        ),
        Chip(
            kind="b200",
            flops=2250e12,
            hbm_bytes=180 * 10**9,
            hbm_rate=8e12,
            link_rate=900e9,
            network_rate=50e9,
            axes=0,
            ring=0,
            sources=(
                "https://www.nvidia.com/en-us/data-center/dgx-b200/",
                "https://docs.nvidia.com/dgx/dgxb200-user-guide/",
            ),
        ),
    )
}
