"""Search for the best mesh, batch size, rematerialization and attention kernel: estimated, compiled, ranked."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mmjax.config import Config, MeshConfig
from mmjax.plan.report import Plan
from mmjax.plan.topology import Topology
from mmjax.types import UserError

Planner = Callable[[Config, Topology], Plan]
MAX_ESTIMATE = 0.92  # of a chip's memory, for estimates


@dataclass(frozen=True)
class Candidate:
    """Config overrides by field name, with their plan or the reason why there is none."""

    changes: dict[str, Any]
    plan: Plan | None = None
    problem: str = ""


def search(
    config: Config,
    topology: Topology,
    compilations: int,
    estimate: Planner,
    compile_: Planner,
    tell: Callable[[str], None],
) -> list[Candidate]:
    """The compiled candidates (for GPUs: the estimated ones), best first, failures last.

    Args:
        compilations: how many to compile at most.
        estimate, compile_: planners, analytical and with the compiler.
        tell: prints progress.
    """
    problem = "parameters or activations are too large"
    best: dict[str, Candidate] = {}
    for changes in candidates(config, topology):
        try:
            plan = estimate(apply(config, changes), topology)
        except UserError as error:
            problem = str(error)  # such as an axis that does not divide
            continue
        if plan.hbm_bytes > MAX_ESTIMATE * topology.chip.hbm_bytes:
            continue
        # Of those that differ in batch size only, keep the smallest within one percent of the best.
        candidate = Candidate(changes, plan)
        key = describe({name: value for name, value in changes.items() if name != "train.batch"})
        if key not in best or _rank(candidate) < _rank(best[key]):
            best[key] = candidate
    if not best:
        raise UserError(f"--search: no candidate fits {topology}: {problem}")
    ranked = sorted(best.values(), key=_rank)
    if not topology.is_tpu:
        return ranked[:compilations]
    found = []
    for number, changes in enumerate([each.changes for each in _varied(ranked)[:compilations]], 1):
        tell(f"compiling {number} of {min(compilations, len(ranked))}: {describe(changes)}")
        try:
            found.append(Candidate(changes, compile_(apply(config, changes), topology)))
        except (UserError, ValueError, RuntimeError) as error:  # the others are unaffected
            found.append(Candidate(changes, None, (str(error) or type(error).__name__).splitlines()[0]))
    return sorted(found, key=_rank)


def _rank(candidate: Candidate) -> tuple[float, int]:
    """Smaller is better: by whole percents of MFU, with HBM once known, then by memory; failures are last."""
    plan = candidate.plan
    return (-round(plan.mfu_with_memory, 2), plan.hbm_bytes) if plan else (1.0, 0)


def _varied(ranked: Iterable[Candidate]) -> list[Candidate]:
    """The best mesh of each kind first, then the second best, since estimates of memory by kind are inaccurate."""
    before: Counter[str] = Counter()
    places = []
    for candidate in ranked:
        kind = describe({name: value for name, value in candidate.changes.items() if name.startswith("compute.")})
        places.append((before[kind], candidate))
        before[kind] += 1
    return [candidate for _, candidate in sorted(places, key=lambda place: place[0])]


def candidates(config: Config, topology: Topology) -> Iterator[dict[str, Any]]:
    """Overrides worth trying: mesh shapes, rematerialization, attention kernels, batch sizes."""
    slices = topology.parts if topology.is_tpu else 1
    each = topology.devices // slices
    meshes = [{"mesh": MeshConfig(each // fsdp, fsdp, 1)} for fsdp in range(1, each + 1) if each % fsdp == 0]
    keeps: list[dict[str, Any]] = [{"compute.remat": False}]
    keeps += [{"compute.remat": True, "compute.remat_policy": name} for name in ("nothing", "attention", "dots")]
    attentions = [{"compute.attention": kernel} for kernel in kernels(config, topology)]
    once = topology.devices * config.optimizer.grad_accum_steps
    batches = [{"train.batch": rows * once} for rows in (1, 2, 4, 8, 16, 32, 64)]
    for mesh, keep, attention, batch in itertools.product(meshes, keeps, attentions, batches):
        yield {**mesh, **keep, **attention, **batch}


def kernels(config: Config, topology: Topology) -> Sequence[str]:
    """The attention kernels of a platform; xla alone where the config computes in float32."""
    fused = "splash" if topology.is_tpu else "cudnn"
    return ("xla",) if config.compute.dtype == "float32" else (fused, "xla")


def apply(config: Config, changes: dict[str, Any]) -> Config:
    """The config with overrides of some fields, such as `compute.remat`."""
    for name, value in changes.items():
        group, _, field = name.rpartition(".")
        inner = dataclasses.replace(getattr(config, group), **{field: value}) if group else value
        config = dataclasses.replace(config, **{group or field: inner})
    return config


def describe(changes: dict[str, Any]) -> str:
    """The overrides as on the command line."""
    words = []
    for name, value in changes.items():
        if isinstance(value, MeshConfig):
            words += [f"--config.mesh.{axis}={getattr(value, axis)}" for axis in ("data", "fsdp", "model")]
        else:
            words.append(f"--config.{name}={str(value).lower() if isinstance(value, bool) else value}")
    return " ".join(words)


def table(found: list[Candidate]) -> str:
    """The candidates as a table, best first."""
    lines = [f"{'utilization':>12} {'with HBM':>9} {'a step':>10} {'memory':>10} {'images/s':>11}  with"]
    for candidate in found:
        options = describe(candidate.changes)
        if plan := candidate.plan:
            with_memory = f"{plan.mfu_with_memory:.1%}" if plan.bytes_accessed else "-"
            lines.append(
                f"{plan.mfu:>12.1%} {with_memory:>9} {plan.step_seconds * 1e3:>7,.1f} ms "
                f"{plan.hbm_bytes / 2**30:>6.2f} GiB {plan.batch / plan.step_seconds:>11,.0f}  {options}"
            )
        else:
            lines.append(f"{'-':>12} {'-':>9} {'-':>10} {'-':>10} {'-':>11}  {options}: {candidate.problem}")
    return "\n".join(lines)


def to_json(found: list[Candidate]) -> list[dict[str, Any]]:
    return [
        {"changes": describe(each.changes), "problem": each.problem, "plan": each.plan and each.plan.to_json()}
        for each in found
    ]
