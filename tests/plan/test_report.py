"""Bounds that follow from computation and traffic of a step."""

import pytest

from mmjax.plan.network import DCN, ICI, Traffic
from mmjax.plan.report import Plan, table
from mmjax.plan.topology import parse

GATHER = Traffic("all-gather", "fsdp", 3e9, {ICI: 0.015})
REDUCE = Traffic("all-reduce", "slice+data", 2e9, {ICI: 0.005, DCN: 0.001})
PLAN = Plan(
    "made",
    parse("2xv5e:4x4"),
    {"slice": 2, "data": 1, "fsdp": 16, "model": 1},
    64,
    300,
    step_flops=197e12 * 32 * 0.030,
    hardware_flops=197e12 * 32 * 0.040,
    memory={"parameters": 2**30, "activations": 2**29},
    traffic=(GATHER, GATHER, REDUCE),
)


def test_step_time_is_that_of_the_busiest_unit() -> None:
    assert PLAN.seconds == {"MXU": pytest.approx(0.040), ICI: pytest.approx(0.035), DCN: pytest.approx(0.001)}
    assert PLAN.step_seconds == pytest.approx(0.040) and PLAN.mfu == pytest.approx(0.75)
    found = PLAN.to_json()
    assert found["collective_bytes"] == {"all-gather": {"fsdp": 6e9}, "all-reduce": {"slice+data": 2e9}}
    assert found["step_seconds_without_overlap"] == pytest.approx(0.076)
    assert found["images_per_second_bound"] == pytest.approx(1600)
    assert found["hbm_bytes_per_chip"] == 3 * 2**29


def test_table() -> None:
    shown = table(PLAN)
    for part in ("2xv5e:4x4", "32 chips", "slice=2 x fsdp=16", "1.50 GiB", "9.4%", "at most 75.0%", "at most 1,600"):
        assert part in shown
    gathered, reduced = (next(line for line in shown.splitlines() if name in line) for name in ("gather", "reduce"))
    assert "5.59 GiB" in gathered and "30.00 ms" in gathered and "6.00 ms" in reduced
