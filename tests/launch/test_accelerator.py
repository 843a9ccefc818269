"""benchmarks/accelerator.py: its parts in small on a CPU, what it measures again, and what it leaves."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
DEVICE = {"platform": "cpu", "kind": "cpu", "memory_bytes": None, "jax": jax.__version__, "mmjax": "0"}


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    path = list(sys.path)
    sys.path.insert(0, str(BENCHMARKS))
    import accelerator

    yield accelerator
    sys.path[:] = path


@pytest.fixture
def run(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs the benchmark without asking another process for the device; returns the parts in the JSON."""

    def run(*options: str) -> dict[str, Any]:
        monkeypatch.setattr(benchmark, "isolated", lambda *arguments: DEVICE)
        file = tmp_path / "found.json"
        monkeypatch.setattr(sys, "argv", ["accelerator.py", f"--json={file}", "--tiny", "--torch=missing", *options])
        benchmark.main()
        found: dict[str, Any] = json.loads(file.read_text())["parts"]
        return found

    return run


def test_a_step_is_measured_with_its_memory_and_plan(
    run: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    step = run("--parts=step/300M,attention/300M,torch/45M")["step/300M"]
    table = capsys.readouterr().out
    assert step["images_per_second"] == pytest.approx(4 / step["seconds_per_step"])
    assert len(step["rounds"]) == 2 and step["compiled_bytes"] > 4 * 4 * step["parameters"]  # with Adam and EMA
    assert step["plan_bytes"] > 5 * 4 * step["parameters"] and step["peak_bytes"] is step["utilization"] is None
    # 2 for each parameter and token forward, 4 backward; most parameters are of the layers.
    assert 0.5 < step["model_flops"] / (6 * step["parameters"] * 4 * 64) < 1
    assert "skipped: cpu has no other attention kernel" in table and "PyTorch is not installed for missing" in table


def test_a_variant_is_compared_with_the_step_itself(benchmark: ModuleType) -> None:
    step = {"model": "300M", "seconds_per_step": 0.05, "batch": 64, "peak_bytes": 3 << 30, "utilization": 0.456}
    variant = step | {"seconds_per_step": 0.04, "attention": "cudnn"}
    line = benchmark.line("attention/300M", variant, {"step/300M": step})
    assert line == "| attention/300M | 64 | 40.0 |  | 45.6% | 3.00 |  |  | cudnn, 1.25 times as fast as step/300M |  |"


def test_images_are_sampled(run: Callable[..., dict[str, Any]]) -> None:
    assert run("--parts=sample/300M")["sample/300M"]["images_per_second"] > 0


def test_a_model_is_trained_from_jpegs(run: Callable[..., dict[str, Any]]) -> None:
    fed = run("--parts=input")["input/captioner"]
    assert min(fed[f"{what}images_per_second"] for what in ("", "input_", "step_")) > 0


def test_what_is_there_is_kept_what_failed_comes_again_and_last(
    benchmark: ModuleType, run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    failing = {"step/45M"}

    def measured(name: str, *others: object) -> dict[str, Any]:
        asked.append(name)
        return {"error": "RESOURCE_EXHAUSTED"} if name in failing else {"seconds_per_step": len(asked), "model": "45M"}

    monkeypatch.setattr(benchmark, "measured", measured)
    assert run("--parts=step/45M,step/120M")["step/45M"] == {"error": "RESOURCE_EXHAUSTED"}
    failing.clear()
    found = run("--parts=step")
    assert asked == ["step/45M", "step/120M", "step/300M", "step/45M"]
    assert [row["seconds_per_step"] for row in found.values()] == [4, 2, 3]
    assert run("--parts=step") == found and len(asked) == 4
    assert run("--parts=step/120M", "--again")["step/120M"]["seconds_per_step"] == 5


def test_parts_without_time_are_named_and_left(
    benchmark: ModuleType,
    run: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = {"step/45M": {"seconds_per_step": 1.0}, "step/120M": None}  # the second took too long
    monkeypatch.setattr(benchmark, "measured", lambda name, *others: rows[name])
    assert run("--parts=step/45M,step/120M") == {"step/45M": {"seconds_per_step": 1.0}}
    assert "again: step/120M\n" in capsys.readouterr().out
    run("--parts=step", "--seconds=0")
    assert "again: step/120M, step/300M\n" in capsys.readouterr().out


def test_another_device_or_size_needs_another_file(
    benchmark: ModuleType, run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(benchmark, "measured", lambda *arguments: {"seconds_per_step": 1.0})
    run("--parts=step/45M")
    file = tmp_path / "found.json"
    file.write_text(file.read_text().replace('"kind": "cpu"', '"kind": "NVIDIA H200"'))
    with pytest.raises(SystemExit, match=r"found.json: has device .*H200"):
        run("--parts=step/45M")


def test_a_failure_is_a_row(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import accelerator_parts as parts

    def outcome(error: BaseException) -> dict[str, Any]:
        def measure(*arguments: Any) -> None:
            raise error

        monkeypatch.setitem(parts.PARTS, "step/45M", (measure, "45M", {}))
        found: dict[str, Any] = parts.outcome("step/45M", parts.Settings(True, "", "cpu", 0.1, 1))
        return found

    assert outcome(RuntimeError("RESOURCE_EXHAUSTED: 80 GiB\nat")) == {"error": "RESOURCE_EXHAUSTED: 80 GiB"}
    assert outcome(TypeError("a\nb")) == {"error": "TypeError: a"}
    assert outcome(SystemExit("peers: ended")) == {"error": "peers: ended"}
    assert outcome(ImportError("no PIL")) == {"skipped": "no PIL"}
    assert outcome(parts.Skipped("no GPU")) == {"skipped": "no GPU"}


def test_a_part_that_takes_too_long_is_ended(benchmark: ModuleType) -> None:
    assert benchmark.isolated(["--run=device"], 0.01) is None
    assert benchmark.isolated(["--run=unknown", "--unknown"], 60) == {"error": "ended with status 2"}


def test_peak_rates_are_those_of_the_plan(benchmark: ModuleType) -> None:
    import accelerator_parts as parts

    # Of the data sheets, dense bfloat16; a chip of tpu7x is two devices.
    assert parts.peak_flops("NVIDIA H200") == 989e12 and parts.peak_flops("TPU v5 lite") == 197e12
    assert parts.peak_flops("TPU7x") == 2307e12 / 2 and parts.peak_flops("NVIDIA T1000") is None
