"""Analytical memory and traffic, against sums by hand."""

from types import SimpleNamespace

import pytest

from mmjax.plan import estimate
from mmjax.plan.hlo import Collective
from mmjax.plan.report import Plan
from mmjax.plan.topology import parse

MESH = {"slice": 1, "data": 2, "fsdp": 4, "model": 2}
GIB = 2**30


def plan(parts: int, **memory: int) -> Plan:
    return Plan("made", parse("v5e:4x4"), MESH, 64, 10, 1e12, 1e12, memory, (), parts=parts)


def test_collectives_of_data_parallelism() -> None:
    parameters = [((8, 6), ("fsdp", "model")), ((5, 4), (None, "fsdp")), ((7,), (None,))]
    gathered = 8 * 6 // 2 + 5 * 4
    assert estimate.collectives(parameters, MESH, 2) == [
        Collective("all-gather", gathered * 2, (0, 2, 4, 6), 2),
        Collective("reduce-scatter", gathered * 2, (0, 2, 4, 6)),
        Collective("all-reduce", (gathered // 4 + 7) * 2, (0, 8)),
    ]
    assert [each.times for each in estimate.collectives(parameters, MESH, 2, accumulate=3)] == [6, 3, 3]
    assert estimate.collectives(parameters, dict.fromkeys(MESH, 1), 2) == []


def test_compiled_memory_sums_up_to_the_total() -> None:
    stats = SimpleNamespace(
        argument_size_in_bytes=120,
        output_size_in_bytes=110,
        alias_size_in_bytes=107,
        temp_size_in_bytes=50,
        generated_code_size_in_bytes=5,
    )
    draft = {"parameters": 30, "optimizer": 60, "gradients": 30, "activations": 20}
    found = estimate.compiled_memory(draft, stats, 1)
    assert found == {
        "parameters": 30,
        "optimizer": 60,
        "activations": 20,
        "temporaries": 30,
        "batch and program": 120 + 110 - 107 + 5 - 90,
    }
    twice = estimate.compiled_memory({name: 2 * size for name, size in draft.items()}, stats, 2)
    assert sum(twice.values()) == 2 * (120 + 110 - 107 + 5 + 50)
    assert estimate.compiled_memory(draft | {"activations": 70}, stats, 1)["temporaries"] == 0


def test_largest_batch() -> None:
    memory = {"parameters": GIB, "optimizer": 2 * GIB, "gradients": GIB, "activations": 3 * GIB}
    # 64 examples take 3 GiB, and there are 0.98 * 16 - 4 of them: 249.2 examples, in whole parts.
    assert plan(8, **memory).largest_batch == 248
    assert plan(32, **memory).largest_batch == 224
    assert plan(8, parameters=20 * GIB, gradients=GIB, activations=GIB).largest_batch == 0


@pytest.mark.parametrize(
    ("memory", "options", "message"),
    [
        (  # 24 GiB on 4 devices take 7; 8 are there for each of the two along model
            {"parameters": 6 * GIB, "optimizer": 12 * GIB, "gradients": 6 * GIB},
            [],
            "over more devices, --config.mesh.fsdp=8 --config.mesh.data=1",
        ),
        (
            {"parameters": 16 * GIB, "optimizer": 32 * GIB, "gradients": 16 * GIB},
            [],
            "they need 17 devices along mesh.fsdp, but a slice has 8: take a larger one",
        ),
        (
            {"parameters": GIB, "gradients": GIB, "activations": 7 * GIB},
            ["--config.compute.remat=true"],
            "try --config.train.batch=32, --config.compute.remat=true",
        ),
        ({"parameters": 15 * GIB, "activations": 9 * GIB}, [], "try a larger slice"),
    ],
)
def test_too_much_suggests_what_fits(memory: dict[str, int], options: list[str], message: str) -> None:
    found = estimate.too_much(plan(16, **memory), 24 * GIB, options)
    assert "needs 24.00 GiB of a chip's 16 GiB" in found and found.endswith(message) and "\n" not in found
