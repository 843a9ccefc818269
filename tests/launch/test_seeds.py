"""benchmarks/seeds.py: the seeds of a config and its components, and the table of several runs."""

import importlib.util
from pathlib import Path

import pytest

from mmjax.config import load_config
from mmjax.config.load import read_config_dict

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("seeds", ROOT / "benchmarks" / "seeds.py")
assert _SPEC and _SPEC.loader
benchmark = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(benchmark)


@pytest.mark.parametrize(
    ("name", "number"), [("quickstart_describe", 1), ("quickstart", 2), ("quickstart_video", 3), ("scenes_direct", 1)]
)
def test_all_that_is_trained_has_the_seed(name: str, number: int) -> None:
    path = f"{ROOT / 'configs' / name}.py:tiny"
    fields = list(benchmark.seeds(read_config_dict(path)))
    config = load_config(path, dict.fromkeys(fields, "7"))
    assert len(fields) == number and config.seed == 7
    for component in config.components.values():
        assert component.config is not None and component.config.seed == 7
        pretraining = component.config.pretraining
        assert pretraining is None or pretraining.seed == 7


def test_the_worst_is_the_largest_loss_and_the_smallest_accuracy() -> None:
    rows = [
        {"loss": 1.0, "scenes/all": 0.5, "emoji/distance": 2.0},
        {"loss": 3.0, "scenes/all": 0.9, "emoji/distance": 1.0},
    ]
    assert benchmark.table(rows).splitlines()[2:] == [
        "| loss | 1.000, 3.000 | 2.000 | 3.000 |",
        "| scenes/all | 0.500, 0.900 | 0.700 | 0.500 |",
        "| emoji/distance | 2.000, 1.000 | 1.500 | 2.000 |",
    ]
