"""mmjax plan: what can be told without the compiler, what is refused, and (slow) the real compiler beside it."""

import importlib.util
import json
import re
from pathlib import Path

import jax
import pytest

from mmjax import models
from mmjax.cli import main
from mmjax.config import Config, load_config
from mmjax.engine import aot_plan
from mmjax.plan import topology
from mmjax.plan.network import DCN
from mmjax.types import UserError

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = f"--config={CONFIGS / 'coco_masked.py'}:tiny"


def config_dict(argument: str, **overrides: str) -> Config:
    return load_config(f"{CONFIGS / 'coco_masked.py'}:{argument}", {"data.root": "none", **overrides})


def test_operations_agree_with_a_count_by_hand() -> None:
    """Of coco_masked at 256 pixels: 14 layers of width 1,024 over 1,024 visual and 48 text tokens, 4 over the text."""
    n, t, d, codes, words = 32 * 32, 48, 1024, 1000, 8192
    attend = 4 * n * d * d + 2 * n * n * d  # multiplications of queries, keys, values, output; of weights and sums
    look = 2 * n * d * d + 2 * t * d * d + 2 * n * t * d
    layer = attend + look + 8 * n * d * d
    text_layer = 4 * t * d * d + 2 * t * t * d + 8 * t * d * d
    hidden_words = 4 * text_layer + t * d * words  # masked language modeling reads the text once more
    forward = 14 * layer + 4 * text_layer + n * d * d + n * d * codes + hidden_words
    expected = 3 * 2 * forward  # two operations each; twice as many backward
    config = config_dict("size=256", **{"train.batch": "1"})
    model = aot_plan.count(aot_plan.of_the_model(config))
    assert model == pytest.approx(expected, rel=0.01)
    again = aot_plan.count(config) - model
    # Rematerialization: the forward pass of the layers once more, but for the last product, which nothing needs.
    of_the_text = 2 * 4 * (text_layer - 4 * t * d * d)  # read twice
    assert again == pytest.approx(2 * (14 * (layer - 4 * n * d * d) + of_the_text), rel=0.01)


def test_gpus_by_arithmetic(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", TINY, "--topology=2xh100:4", "--config.mesh.fsdp=4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["hbm_capacity_bytes"] == 80 * 10**9 and found["mesh"] == {"slice": 1, "data": 2, "fsdp": 4, "model": 1}
    assert 0 < found["mfu_bound"] < 1 and found["compile_seconds"] == 0
    assert found["images_per_second_bound"] == pytest.approx(8 / found["step_seconds_bound"])
    assert found["step_seconds_bound"] == max(found["seconds"].values())
    assert found["hbm_bytes_per_chip"] == sum(found["memory"].values())
    config = config_dict("tiny")
    params = jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert found["parameters"] == count
    # All but vectors and small tables are split over fsdp; Adam's moments are two copies, float32.
    assert count < found["memory"]["parameters"] < 1.2 * count
    assert found["memory"]["optimizer"] == pytest.approx(2 * found["memory"]["parameters"], rel=1e-3)
    assert found["collective_bytes"].keys() == {"all-gather", "reduce-scatter", "all-reduce"}
    assert found["collective_bytes"]["all-gather"].keys() == {"fsdp"}
    assert found["collective_bytes"]["all-reduce"].keys() == {"data"}


@pytest.mark.slow
def test_search_ranks_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", TINY, "--topology=h100:2", "--search", "--compilations=3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    bounds = [round(each["plan"]["mfu_bound"], 2) for each in found]
    assert len(found) == 3 and bounds == sorted(bounds, reverse=True) and 0 < bounds[0] <= 1
    assert "--config.train.batch=" in found[0]["changes"] and "--config.mesh.fsdp=" in found[0]["changes"]


@pytest.mark.slow
def test_layers_that_are_computed_anew_take_memory_for_one_of_them_at_a_time() -> None:
    h100 = topology.parse("h100:1")
    plain, again = (
        aot_plan.estimated(config_dict("tiny", **{"compute.remat": remat, "train.batch": "8"}), h100).memory
        for remat in ("false", "true")
    )
    layers = config_dict("tiny").model.layers
    assert "temporaries" not in plain and again["activations"] < plain["activations"]
    expected = (plain["activations"] - again["activations"]) / layers
    assert again["temporaries"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--topology=v5e-16"], "--topology v5e-16: unknown"),
        (["--topology=h100:8", "--config.mesh.fsdp=3"], "does not multiply to the 8 devices"),
        (["--topology=h100:8", "--config.train.batch=12"], "train.batch: 12 does not split over 8 devices"),
        (["--topology=h100:8", "--config.mesh.model=2"], "mesh.model: GPUs are planned by arithmetic"),
        (["--topology=h100:8", "--config.compute.attention=splash"], "compute.attention: splash "),
        (
            ["--topology=h100:8", "--config.train.batch=1000000"],
            "h100:8: the step needs .*grad_accum_steps=2",
        ),
        (["--topology=h100:8", "--compilations=0"], "--compilations 0: must be above 0"),
        (["--topology=h100:8", "--config.components.visual_tokenizer=nowhere"], "nowhere"),
        ([], "--topology"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", TINY, *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(told, error) and error.count("\n") == 1


def test_without_libtpu_it_says_what_brings_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["plan", TINY, "--topology=v5e:4x4"]) == 2
    assert "pip install '.[plan]'" in capsys.readouterr().err


needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu, which compiles for TPUs, is not installed"
)


@pytest.mark.slow
@needs_libtpu
def test_slices_send_each_other_the_gradients() -> None:
    config = config_dict("tiny", **{"mesh.fsdp": "4", "mesh.data": "1", "train.batch": "8"})
    plan = aot_plan.compiled(config, topology.parse("2xv5e:2x2"))
    sent = sum(each.sent for each in plan.traffic if each.axes == "slice")
    # Half of a sum goes there and half back. The compiler chooses whether each of the four devices of a slice sends its
    # part or the whole, in 16 bits, as of a product, or in float32, and how far it pads.
    assert 2 * plan.parameters / 4 <= sent <= 1.5 * 4 * plan.parameters
    assert plan.seconds[DCN] == pytest.approx(sent / 3.125e9)


@pytest.mark.slow
@needs_libtpu
def test_compiled_for_a_slice_memory_is_what_the_compiler_says(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    compile_ = jax.stages.Lowered.compile
    monkeypatch.setattr(
        jax.stages.Lowered, "compile", lambda self, **options: seen.append(compile_(self, **options)) or seen[-1]
    )
    config = config_dict("tiny", **{"mesh.data": "2", "mesh.fsdp": "2", "train.batch": "8"})
    plan = aot_plan.compiled(config, topology.parse("v5e:2x2"))
    stats = seen[-1].memory_analysis()
    arguments = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    assert plan.hbm_bytes == arguments + stats.temp_size_in_bytes + stats.generated_code_size_in_bytes
    assert stats.alias_size_in_bytes > 0.9 * stats.output_size_in_bytes  # the state's memory is taken over
    assert all(size >= 0 for size in plan.memory.values())
    assert {each.axes for each in plan.traffic} >= {"fsdp"}
    with pytest.raises(UserError, match="libtpu knows no such slice"):
        topology.devices(topology.parse("v5e:3x5"))
