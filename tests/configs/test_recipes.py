"""Every file in configs/ resolves, matches its sharding rules on every mesh, and takes a step in its tiny form."""

import dataclasses
import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

from mmjax import models
from mmjax.commands import wiring
from mmjax.config import Config, Mesh, load_recipe
from mmjax.parallel import make_mesh, match_rules
from mmjax.types import UserError

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "configs").glob("*.py"))
MESHES = [Mesh(8, 1, 1), Mesh(1, 8, 1), Mesh(1, 1, 8), Mesh(2, 2, 2)]


def read(path: Path, argument: str = "") -> Config:
    config = load_recipe(f"{path}:{argument}", {"data.root": "/nowhere"})
    wiring.check(config)
    return config


def name_of(value: Path | Mesh) -> str:
    return value.stem if isinstance(value, Path) else f"{value.data}x{value.fsdp}x{value.model}"


def test_there_are_recipes() -> None:
    assert {"quickstart", "coco_direct"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_resolves_and_says_what_it_is(path: Path) -> None:
    full, tiny = read(path), read(path, "tiny")
    assert full.name == tiny.name == path.stem
    assert tiny.train.steps <= 10 and tiny.data.size <= 32 and not tiny.train.epochs
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.__doc__ and "Arguments:" in module.__doc__ and "tiny" in module.__doc__


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
@pytest.mark.parametrize("argument", ["", "size=64", "tiny"])
def test_the_sizes_that_the_recipe_offers_resolve(path: Path, argument: str) -> None:
    config = read(path, argument)
    assert argument != "size=64" or config.data.size == 64
    if argument == "tiny":
        assert read(path, "size=64,tiny").data.size == 64


@pytest.mark.parametrize("mesh", MESHES, ids=name_of)
@pytest.mark.parametrize("path", RECIPES, ids=name_of)
@pytest.mark.parametrize("argument", ["", "tiny"])
def test_matches_its_sharding_rules(path: Path, argument: str, mesh: Mesh) -> None:
    config = read(path, argument)
    shapes = jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    if getattr(config.model, "heads", 8) % mesh.model:
        with pytest.raises(UserError, match=r"attention/q/kernel +model=8 does not divide 4 of shape"):
            match_rules(shapes, models.sharding_rules(config), make_mesh(mesh))
        return
    shardings = match_rules(shapes, models.sharding_rules(config), make_mesh(mesh))
    leaves = zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    held = sum(np.prod(sharding.shard_shape(leaf.shape)) for leaf, sharding in leaves)
    whole = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert held == whole if mesh.data == 8 else held < 0.6 * whole  # what one device holds


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_takes_a_step_on_eight_devices(path: Path) -> None:
    """On random numbers: the parameters move, the loss is that of the objective, and nothing is skipped."""
    config = dataclasses.replace(read(path, "tiny"), mesh=Mesh(2, 2, 2))
    parts = wiring.build(config)
    training = wiring.build_training(parts, config.train.steps)
    rng = np.random.default_rng(0)
    size, batch = config.data.size, config.train.batch
    text = rng.integers(1, config.text.vocabulary, (batch, config.text.length)).astype(np.int32)
    frames = (config.data.frames,) if config.data.frames > 1 else ()
    image = rng.uniform(-1, 1, (batch, *frames, size, size, 3)).astype(np.float32)
    host = {"image": image, "text": text, "mask": np.arange(batch) != 3, "id": ["x"] * batch, "captions": [[]] * batch}
    state = training.make_state()
    before = jax.device_get(state.params)
    outputs = jax.device_get(parts.predict(state.params, parts.placement.put(host)))
    state, metrics = training.step(state, parts.placement.put(host))
    assert int(state.step) == 1 and int(metrics["bad_steps"]) == 0 and int(metrics["examples"]) == batch - 1
    moved = jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), before, jax.device_get(state.params)))
    assert np.mean(moved) > 0.9
    assert outputs["image"].shape == image.shape and outputs["loss"].shape == (batch,)
    if not config.objective.drop_reference:  # else the step withholds some references, which the prediction does not
        assert float(metrics["loss"]) == pytest.approx(outputs["loss"][host["mask"]].mean(), rel=1e-5)
