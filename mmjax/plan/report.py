"""Plans, as tables and JSON."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmjax.plan.network import DCN, ICI, Traffic
from mmjax.plan.topology import Topology

COMPUTE, MEMORY = "MXU", "HBM"
PARAMETERS, OPTIMIZER, AVERAGE = "parameters", "optimizer", "average"
GRADIENTS, ACTIVATIONS, TEMPORARIES, BATCH = "gradients", "activations", "temporaries", "batch and program"
STATE = (PARAMETERS, OPTIMIZER, AVERAGE)
USABLE = 0.98  # fraction of a chip's HBM: XLA uses 15.75 of 16 GiB on v5e


@dataclass(frozen=True)
class Plan:
    """The cost of one training step on a topology. Bytes are of one chip.

    Attributes:
        name: of the config.
        mesh: sizes of its axes.
        batch: examples in a step.
        parameters: number of the model's parameters.
        step_flops: model FLOPs of a step, forward and backward, on all chips.
        hardware_flops: with those of rematerialization and the optimizer.
        memory: bytes of a chip by content; by the compiler, if compiled.
        traffic: between devices.
        bytes_accessed: of HBM in a step; 0: unknown.
        compile_seconds: 0: not compiled.
        parts: that the batch is a multiple of: devices times microbatches.
    """

    name: str
    topology: Topology
    mesh: Mapping[str, int]
    batch: int
    parameters: int
    step_flops: float
    hardware_flops: float
    memory: Mapping[str, int]
    traffic: Sequence[Traffic]
    bytes_accessed: int = 0
    compile_seconds: float = 0.0
    parts: int = 1

    @property
    def hbm_bytes(self) -> int:
        return sum(self.memory.values())

    @property
    def largest_batch(self) -> int:
        """The largest batch that fits in memory, by extrapolation of what grows with the batch; 0: none, or unknown."""
        fixed = sum(self.memory.get(name, 0) for name in (*STATE, GRADIENTS))
        if GRADIENTS not in self.memory:  # they are part of the compiler's temporaries
            fixed += min(self.memory.get(PARAMETERS, 0), self.memory.get(TEMPORARIES, 0))
        grows, room = self.hbm_bytes - fixed, USABLE * self.topology.chip.hbm_bytes - fixed
        if grows <= 0 or room <= 0:
            return 0
        return int(room / (grows / (self.batch // self.parts))) * self.parts

    @property
    def seconds(self) -> dict[str, float]:
        """The least busy time of each unit and network in a step."""
        peak = self.topology.chips * self.topology.chip.flops
        found = {COMPUTE: self.hardware_flops / peak}
        if self.bytes_accessed:
            found[MEMORY] = self.bytes_accessed / self.topology.chip.hbm_rate
        for traffic in self.traffic:
            for network, seconds in traffic.seconds.items():
                found[network] = found.get(network, 0.0) + seconds
        return found

    @property
    def step_seconds(self) -> float:
        """A lower bound on the step time: that of the busiest unit, if all work in parallel.

        Collectives are taken to run one after another, even on different axes of the torus. HBM is left out: its
        traffic depends on what XLA can keep in the cores' own memory.
        """
        return max(seconds for part, seconds in self.seconds.items() if part != MEMORY)

    @property
    def mfu(self) -> float:
        """The model FLOPs utilization (MFU) at step_seconds."""
        return self._utilization(self.step_seconds)

    @property
    def mfu_with_memory(self) -> float:
        """The MFU with this program's HBM traffic as a bound, too."""
        return self._utilization(max(self.seconds.values()))

    def _utilization(self, seconds: float) -> float:
        return self.step_flops / (seconds * self.topology.chips * self.topology.chip.flops)

    def to_json(self) -> dict[str, Any]:
        sent: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for traffic in self.traffic:
            sent[traffic.kind][traffic.axes] += traffic.sent
        return {
            "config": self.name,
            "topology": str(self.topology),
            "mesh": dict(self.mesh),
            "batch": self.batch,
            "parameters": self.parameters,
            "step_flops": self.step_flops,
            "hardware_flops": self.hardware_flops,
            "hbm_bytes_per_chip": self.hbm_bytes,
            "hbm_capacity_bytes": self.topology.chip.hbm_bytes,
            "memory": dict(self.memory),
            "collective_bytes": {kind: dict(by_axes) for kind, by_axes in sent.items()},
            "bytes_accessed": self.bytes_accessed,
            "seconds": self.seconds,
            "step_seconds_bound": self.step_seconds,
            "step_seconds_without_overlap": sum(self.seconds.values()),
            "mfu_bound": self.mfu,
            "mfu_bound_with_memory": self.mfu_with_memory,
            "images_per_second_bound": self.batch / self.step_seconds,
            "largest_batch": self.largest_batch,
            "compile_seconds": self.compile_seconds,
            "sources": list(self.topology.chip.sources),
        }


def table(plan: Plan) -> str:
    """The plan as a table."""
    chip, topology = plan.topology.chip, plan.topology
    mesh = " x ".join(f"{name}={size}" for name, size in plan.mesh.items() if size > 1) or "one device"
    memory = {**plan.memory, "total": plan.hbm_bytes}
    rates = {
        COMPUTE: f"{plan.hardware_flops:.4g} FLOPs at {chip.flops / 1e12:,.0f} T/s a chip",
        MEMORY: f"{_bytes(plan.bytes_accessed)} at {chip.hbm_rate / 1e9:,.0f} GB/s",
        ICI: f"{chip.link_rate / 1e9:,.0f} GB/s a link",
        DCN: f"{chip.network_rate / 1e9:.3g} GB/s a chip",
    }
    lines = [
        f"{plan.name} on {topology}: {topology.chips:,} chips, {mesh}, batch {plan.batch:,}",
        "",
        _row("parameters", f"{plan.parameters:,}"),
        "",
        f"memory of a chip, {_bytes(chip.hbm_bytes)}",
        *(_row(name, _bytes(size), f"{size / chip.hbm_bytes:7.1%}") for name, size in memory.items()),
        _row("largest batch", f"about {plan.largest_batch:,}") if plan.largest_batch else None,
        "",
        "sent by each device in a step",
        *(_traffic(plan.traffic) or ["  nothing"]),
        "",
        "a step at published rates",
        *(_row(name, _seconds(seconds), rates[name]) for name, seconds in plan.seconds.items()),
        _row("at least", _seconds(plan.step_seconds), "all of these but HBM in parallel"),
        _row("without overlap", _seconds(sum(plan.seconds.values()))),
        "",
        _row("model FLOPs a step", f"{plan.step_flops:.4g}", f"{plan.step_flops / plan.batch:.4g} an image"),
        _row("utilization", f"at most {plan.mfu:.1%}", "model FLOPs utilization"),
        _row("with HBM", f"about {plan.mfu_with_memory:.1%}", "by this program's HBM traffic")
        if plan.bytes_accessed
        else None,
        _row("images a second", f"at most {plan.batch / plan.step_seconds:,.0f}"),
        _row("compiled in", _seconds(plan.compile_seconds)) if plan.compile_seconds else None,
        "",
        f"rates: {', '.join(chip.sources)}",
    ]
    return "\n".join(line for line in lines if line is not None)


def _traffic(traffic: Sequence[Traffic]) -> list[str]:
    sent, seconds = defaultdict[str, float](float), defaultdict[str, float](float)
    for each in traffic:
        name = f"{each.kind} {each.axes}"
        sent[name] += each.sent
        seconds[name] += sum(each.seconds.values())
    slowest = sorted(seconds, key=lambda name: -seconds[name])
    return [_row(name, _bytes(round(sent[name])), f"{_seconds(seconds[name])} alone") for name in slowest]


def _row(name: str, value: str, more: str = "") -> str:
    return f"  {name:<28} {value:>18}   {more}".rstrip()


def _bytes(size: int) -> str:
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:,.2f} {unit}"
    return f"{size:,.0f} B"


def _seconds(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:,.1f} s"
    return f"{seconds * 1e3:,.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:,.0f} us"
