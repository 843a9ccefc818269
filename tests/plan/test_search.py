"""The search with artificial planners: what it compiles, and its ranking."""

import dataclasses

import pytest

from mmjax.config import Config, MeshConfig, resolve
from mmjax.plan.report import Plan
from mmjax.plan.search import apply, candidates, describe, search, table
from mmjax.plan.topology import Topology, parse
from mmjax.types import UserError

CONFIG = resolve({"train": {"steps": 1}})
BFLOAT16 = resolve({"train": {"steps": 1}, "compute": {"dtype": "bfloat16"}})
SLICE = parse("v5e:2x2")


def plan(config: Config, topology: Topology) -> Plan:
    """The more a device has, and the more fsdp splits, the better; 64 examples a device do not fit."""
    rows = config.train.batch // topology.devices
    busy = 0.5 + 0.1 * config.mesh.fsdp / topology.devices + 0.001 * rows
    flops = busy * topology.chips * topology.chip.flops
    memory = {"activations": rows * 2**28}
    return Plan(
        "made", topology, {"fsdp": 4}, config.train.batch, 7, flops, topology.chips * topology.chip.flops, memory, ()
    )


def plan_meshes(config: Config, topology: Topology) -> Plan:
    """As `plan`, without candidates that differ in more than mesh and batch."""
    if config.compute.remat or config.compute.attention != "xla":
        raise UserError("of another kind")
    return plan(config, topology)


def test_candidates_are_compiled_and_ranked() -> None:
    told: list[str] = []

    def compile_(config: Config, topology: Topology) -> Plan:
        if config.mesh.fsdp == 4:
            raise UserError("does not fit after all")
        found = plan(config, topology)
        return dataclasses.replace(found, step_flops=found.step_flops / config.mesh.fsdp)

    found = search(CONFIG, SLICE, 3, plan_meshes, compile_, told.append)
    assert len(told) == 3 and all("32" not in line or "batch=128" in line for line in told)
    kind = {"compute.remat": False, "compute.attention": "xla"}
    # One percent more for each 8 examples a device: 32 of them are the best that fit, on each mesh.
    assert [each.changes for each in found] == [
        {"mesh": MeshConfig(4, 1, 1), **kind, "train.batch": 128},
        {"mesh": MeshConfig(2, 2, 1), **kind, "train.batch": 128},
        {"mesh": MeshConfig(1, 4, 1), **kind, "train.batch": 128},
    ]
    assert found[-1].plan is None and found[-1].problem == "does not fit after all"
    shown = table(found).splitlines()
    assert "--config.mesh.data=4" in shown[1] and shown[-1].endswith("does not fit after all")


def test_nothing_fits() -> None:
    def large(config: Config, topology: Topology) -> Plan:
        return dataclasses.replace(plan(config, topology), memory={"parameters": 2**40})

    with pytest.raises(UserError, match="no candidate fits v5e:2x2"):
        search(CONFIG, SLICE, 3, large, plan, print)


def test_best_mesh_of_each_kind_is_ranked_with_hbm() -> None:
    def compile_(config: Config, topology: Topology) -> Plan:
        """Attention by splash moves little; that of XLA so much that memory is what a step waits for."""
        found = plan(config, topology)
        rate = topology.chip.hbm_rate * found.step_seconds
        return dataclasses.replace(
            found, bytes_accessed=round(rate / 2 if config.compute.attention == "splash" else rate * 2)
        )

    found = search(BFLOAT16, SLICE, 8, plan, compile_, lambda line: None)
    kinds = [(each.changes["compute.attention"], each.changes["compute.remat"]) for each in found]
    assert [kernel for kernel, _ in kinds] == ["splash"] * 4 + ["xla"] * 4
    assert {each.changes["mesh"] for each in found} == {MeshConfig(1, 4, 1)}
    with_memory = [float(line.split()[1].rstrip("%")) for line in table(found).splitlines()[1:]]
    bounds = [float(line.split()[0].rstrip("%")) for line in table(found).splitlines()[1:]]
    assert with_memory == pytest.approx(bounds[:4] + [bound / 2 for bound in bounds[4:]], abs=0.1)


def test_compiler_errors_do_not_end_the_search() -> None:
    def compile_(config: Config, topology: Topology) -> Plan:
        if config.mesh.fsdp == 4:
            raise RuntimeError("INTERNAL: no\nand why")
        return plan(config, topology)

    found = search(CONFIG, SLICE, 3, plan_meshes, compile_, lambda line: None)
    assert [each.problem for each in found] == ["", "", "INTERNAL: no"]


def test_batches_are_multiples_of_the_microbatches() -> None:
    config = dataclasses.replace(CONFIG, optimizer=dataclasses.replace(CONFIG.optimizer, grad_accum_steps=3))
    assert {changes["train.batch"] % 12 for changes in candidates(config, SLICE)} == {0}


def test_kernels_of_the_platforms() -> None:
    kernels = {
        name: {changes["compute.attention"] for changes in candidates(BFLOAT16, parse(name))}
        for name in ("v5e:2x2", "h100:4")
    }
    assert kernels == {"v5e:2x2": {"splash", "xla"}, "h100:4": {"cudnn", "xla"}}
    changed = apply(BFLOAT16, {"mesh": MeshConfig(1, 4, 1), "compute.remat": True, "train.batch": 8})
    assert changed.mesh.fsdp == 4 and changed.compute.remat and changed.train.batch == 8
    assert describe({"mesh": MeshConfig(1, 4, 1), "compute.remat": True}) == (
        "--config.mesh.data=1 --config.mesh.fsdp=4 --config.mesh.model=1 --config.compute.remat=true"
    )
