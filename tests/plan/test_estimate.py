"""Memory and traffic by arithmetic, against sums done by hand."""

from types import SimpleNamespace

import pytest

from mmjax.plan import estimate
from mmjax.plan.hlo import Collective
from mmjax.plan.report import Plan
from mmjax.plan.topology import parse

MESH = {"slice": 1, "data": 2, "fsdp": 4, "model": 2}
GIB = 2**30


def plan(**memory: int) -> Plan:
    return Plan("made", parse("v5e:4x4"), MESH, 64, 10, 1e12, 1e12, memory, ())


def test_what_data_parallelism_sends() -> None:
    parameters = [((8, 6), ("fsdp", "model")), ((5, 4), (None, "fsdp")), ((7,), (None,))]
    gathered = 8 * 6 // 2 + 5 * 4
    assert estimate.collectives(parameters, MESH, 2) == [
        Collective("all-gather", gathered * 2, (0, 2, 4, 6), 2),
        Collective("reduce-scatter", gathered * 4, (0, 2, 4, 6)),
        Collective("all-reduce", (gathered // 4 + 7) * 4, (0, 8)),
    ]
    assert estimate.collectives(parameters, dict.fromkeys(MESH, 1), 2) == []


def test_memory_of_a_compiled_step_sums_up_to_what_the_compiler_says() -> None:
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


def test_the_largest_batch_fills_what_the_state_leaves() -> None:
    found = plan(parameters=GIB, optimizer=2 * GIB, gradients=GIB, activations=3 * GIB)
    assert estimate.largest_batch(found, 8) == 256  # 8 examples on each of 8 devices take 3 GiB; there are 12
    assert estimate.largest_batch(plan(parameters=20 * GIB, gradients=GIB, activations=GIB), 8) == 0


@pytest.mark.parametrize(
    ("memory", "told"),
    [
        ({"parameters": 6 * GIB, "optimizer": 12 * GIB, "gradients": 6 * GIB}, "--config.mesh.fsdp=6 or more"),
        ({"parameters": GIB, "gradients": GIB, "activations": 7 * GIB}, "--config.train.batch=40"),
    ],
)
def test_what_does_not_fit_and_what_would(memory: dict[str, int], told: str) -> None:
    found = estimate.too_much(plan(**memory), 24 * GIB)
    assert "wants 24.00 GiB of a chip's 16 GiB" in found and told in found and "\n" not in found
