"""What no machine, or not this one, has room for is told at once: sizes, their products, files."""

import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from runs import Mistake

from mmjax.config import resolve
from mmjax.data.folder_dataset import read_captions
from mmjax.data.sound import KIND
from mmjax.engine import memory
from mmjax.nn.positions import rope_angles, sincos_1d, sincos_grid
from mmjax.parallel import Placement, make_mesh
from mmjax.train import batch_size_history
from mmjax.train.state import State
from mmjax.types import UserError

SCENES = "--config=configs/scenes_direct.py:tiny"


@pytest.mark.parametrize(("field", "options"), [
    ("train.batch", {"train.batch": 10**9}),
    ("evaluate.batch", {"evaluate.batch": 10**9}),
    ("data.scenes.examples", {"data.scenes.examples": 10**12}),
    ("train.steps", {"train.steps": 2**31}),
    ("data.size", {"data.size": 4_096}),
    ("train.batch", {"train.batch": 2**20, "data.size": 512}),
    ("evaluate.batch", {"evaluate.batch": 2**19, "data.size": 1_024}),
    ("model", {"model.width": 32_768, "model.fusion_layers": 100}),
    ("model.width", {"model.width": 16_384, "text.vocabulary": 4_000_000, "text.length": 8_192}),
], ids=str)  # fmt: skip
def test_what_does_not_fit_is_told_at_once(
    field: str, options: dict[str, int], tmp_path: Path, mistake: Mistake
) -> None:
    given = [f"--config.{name}={value}" for name, value in options.items()]
    begin = time.process_time()
    line = mistake("train", SCENES, *given, "--workdir", tmp_path / "run")
    assert line.startswith(f"{field}: ") and time.process_time() - begin < 30  # of a busy machine
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").glob("checkpoints/*"))


def test_a_second_stage_that_does_not_fit_is_told_before_the_first_is_trained(tmp_path: Path, mistake: Mistake) -> None:
    options = ("--config.model.width=32768", "--config.model.layers=1000")
    line = mistake("train", "--config=configs/quickstart.py:tiny", *options, "--workdir", tmp_path / "run")
    assert line.startswith("model: ") and " parameters " in line and not (tmp_path / "run").exists()


def test_the_state_is_measured_by_its_shards() -> None:
    config = resolve({"train": {"steps": 1}, "mesh": {"data": 2, "fsdp": 4}})
    placement = Placement(make_mesh(config.mesh))
    count = int(memory._device_memory(placement)) // 4

    def state(axis: str | None) -> State:
        sharding = jax.sharding.NamedSharding(placement.mesh, jax.sharding.PartitionSpec(axis))
        params = {"w": jax.ShapeDtypeStruct((count - count % 8,), np.float32, sharding=sharding)}
        whole = jax.ShapeDtypeStruct((), np.int32, sharding=placement.replicated)
        return State(
            step=whole, params=params, opt_state=optax.EmptyState(), ema=None, rng=whole, nonfinite_steps=whole
        )

    memory.check_state(state("fsdp"), placement)  # with the gradients half of a device's memory
    with pytest.raises(UserError, match=r"^model: [\d,]+ parameters .* GiB"):
        memory.check_state(state(None), placement)


@pytest.mark.parametrize(("history", "valid"), [
    ([[0, 2**20], [2**31 - 1, 8]], True),
    ([[0, 2**20 + 1]], False),
    ([[0, 10**12]], False),
    ([[0, 8], [2**31, 16]], False),
    ([[0, 8], [10**4_000, 16]], False),
    ([], False),
], ids=range(6))  # fmt: skip
def test_batches_of_a_config_have_the_bounds_of_its_fields(history: Any, valid: bool) -> None:
    assert batch_size_history.valid(history) is valid


def told(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        read_captions(folder, KIND)
    return str(error.value).partition("\n")[0]


def test_captions_that_never_end(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    with path.open("wb") as file:
        file.truncate(6 << 30)  # sparse
    assert told(tmp_path).startswith(f"{path}: has a line of more than ")
    path.unlink()
    os.mkfifo(path)
    assert told(tmp_path).startswith(f"{path}: is no regular file")


def test_captions_that_are_nested(tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    path.write_text("\n" + "[" * 100_000)
    assert told(tmp_path).startswith(f"{path}, line 2: not JSON")


@pytest.mark.parametrize("table", [
    lambda: sincos_1d(8_192, 16_384), lambda: sincos_grid((8_192, 1), 16_384), lambda: rope_angles((8_192, 8_192), 64),
], ids=["text", "grid", "rope"])  # fmt: skip
def test_tables_of_positions_have_a_bound(table: Any) -> None:
    with pytest.raises(UserError, match=r"^model\.width: "):
        table()
