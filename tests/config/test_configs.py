"""Every file in configs/ resolves, matches its sharding rules on every mesh, and takes a step in its tiny form."""

import ast
import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mmjax import losses, models
from mmjax.config import Config, MeshConfig, load_config
from mmjax.engine import setup, trainer
from mmjax.parallel import make_mesh, match_rules
from mmjax.types import UserError

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.py") if path.stem != "presets")  # which they share
TRAINED = (  # by tests of the commands, slow ones included, or, all their losses, by those of the step
    "coco_caption",
    "coco_contrastive",
    "coco_direct",
    "coco_masked",
    "coco_pretrain",
    "coco_tokenizer",
    "quickstart",
    "quickstart_describe",
    "quickstart_video",
    "scenes_direct",
    "video_masked",
    "video_tokenizer",
    "vqa",
)
ARGUMENTS = {
    "coco_caption": ["size=224"],
    "coco_contrastive": ["size=224", "sigmoid"],
    "coco_direct": ["size=224"],
    "coco_masked": ["size=128", "size=256"],
    "coco_pretrain": ["size=224", "questions"],
    "coco_tokenizer": ["adversarial", "size=128,adversarial"],
    "emoji": ["languages=en", "languages=de+zh+en"],
    "emoji_describe": ["languages=en"],
    "personalize": ["model=/nowhere/else"],
    "quickstart": [],
    "quickstart_describe": ["fusion=joint", "fusion=mlp", "fusion=bilinear"],
    "quickstart_video": ["frames=4", "size=64,frames=9"],
    "scenes_direct": [],
    "super_resolution": ["source=coco_folder", "size=128,low=64,source=coco_folder"],
    "video_masked": ["frames=9", "size=64,frames=8"],
    "video_tokenizer": ["adversarial", "size=64,frames=8,adversarial"],
    "vqa": ["size=224", "fusion=joint", "classes=3129,fusion=mlp"],
}  # beside size=64 and tiny
MESHES = [MeshConfig(8, 1, 1), MeshConfig(1, 8, 1), MeshConfig(1, 1, 8), MeshConfig(2, 2, 2)]


def read(path: Path, argument: str = "") -> Config:
    config = load_config(f"{path}:{argument}", {"data.root": "/nowhere"})
    setup.check(config)
    return config


@functools.cache
def parameter_shapes(path: Path, argument: str) -> tuple[Config, Any]:
    config = read(path, argument)
    return config, jax.eval_shape(lambda: models.init(config, jax.random.key(0)))


def random_params(config: Config, rng: np.random.Generator) -> Any:
    shapes = jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    return jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype), shapes)


def name_of(value: Path | MeshConfig) -> str:
    return value.stem if isinstance(value, Path) else f"{value.data}x{value.fsdp}x{value.model}"


def test_there_are_configs() -> None:
    assert ARGUMENTS.keys() == {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_resolves_and_says_what_it_is(path: Path) -> None:
    full, tiny = read(path), read(path, "tiny")
    assert full.name == tiny.name == path.stem
    assert tiny.train.steps <= 10 and not tiny.train.epochs
    assert (tiny.component("reference_tokenizer") or tiny).data.size <= 32
    told = ast.get_docstring(ast.parse(path.read_text()))
    assert told and "Arguments:" in told and "tiny" in told
    for argument in ARGUMENTS[path.stem]:
        for name in argument.split(","):
            assert name.partition("=")[0] in told


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_the_arguments_that_the_config_offers_resolve(path: Path) -> None:
    for argument in (*ARGUMENTS[path.stem], "size=64", "size=64,tiny"):
        config = read(path, argument)
        tokenizer, reference = (config.component(f"{name}_tokenizer") for name in ("visual", "reference"))
        assert reference is None or reference.data.size < config.data.size
        for part in (config, *([tokenizer] if tokenizer else [])):
            for name in ("size", "frames"):
                asked = re.search(rf"{name}=(\d+)", argument)
                assert not asked or getattr(part.data, name) == int(asked[1])
        assert bool(losses.adversarial_terms(config)) == ("adversarial" in argument)


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_a_config_of_two_stages_is_one_of_each(path: Path) -> None:
    config = read(path)
    tokenizer = config.component("visual_tokenizer")
    assert (tokenizer is not None) == (config.model.kind == "masked_generator")
    if tokenizer is None:
        return
    assert tokenizer.name == f"{path.stem}-visual_tokenizer"
    assert tokenizer.data.root == config.data.root == "/nowhere"
    own = ROOT / "configs" / f"{path.stem.removesuffix('_masked')}_tokenizer.py"
    if own.exists():  # the tokenizer is that of its own config, so that one trained by it can be named as well
        alone = read(own, f"size={config.data.size}")
        assert (tokenizer.model, tokenizer.data) == (alone.model, alone.data)


@pytest.mark.parametrize(("size", "millions"), [(64, 45), (128, 120), (256, 300)])
def test_parameters_of_the_masked_generator_for_coco(size: int, millions: int) -> None:
    _, shapes = parameter_shapes(ROOT / "configs" / "coco_masked.py", f"size={size}")
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) / 1e6 == pytest.approx(millions, rel=0.1)


@pytest.mark.parametrize("mesh", MESHES, ids=name_of)
@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
@pytest.mark.parametrize("argument", ["", pytest.param("tiny", marks=pytest.mark.slow)])
def test_matches_its_sharding_rules(path: Path, argument: str, mesh: MeshConfig) -> None:
    config, shapes = parameter_shapes(path, argument)
    heads = getattr(config.model, "heads", 8)
    if heads % mesh.model:
        with pytest.raises(UserError, match=rf"attention/q/kernel +model=8 does not divide {heads} of shape"):
            match_rules(shapes, models.sharding_rules(config), make_mesh(mesh))
        return
    shardings = match_rules(shapes, models.sharding_rules(config), make_mesh(mesh))
    leaves = zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    held = sum(np.prod(sharding.shard_shape(leaf.shape)) for leaf, sharding in leaves)
    whole = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert held == whole if mesh.data == 8 else held < 0.6 * whole  # what one device holds


@pytest.mark.parametrize("mesh", [MESHES[0], pytest.param(MESHES[-1], marks=pytest.mark.slow)], ids=name_of)
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] if path.stem in TRAINED else []) for path in CONFIGS],
    ids=name_of,
)
def test_takes_a_step_on_eight_devices(path: Path, mesh: MeshConfig) -> None:
    """On random numbers: the parameters move, the loss is that of its terms, and nothing is skipped."""
    config = dataclasses.replace(read(path, "tiny"), mesh=mesh)
    rng = np.random.default_rng(0)
    components = {name: random_params(each.config, rng) for name, each in config.components.items() if each.config}
    experiment = setup.build(config, components)
    base = random_params(config, rng) if config.lora.rank else None
    training = trainer.build(experiment, config.train.steps, base)
    size, batch = config.data.size, config.train.batch
    text = rng.integers(1, config.text.vocabulary, (batch, config.text.length)).astype(np.int32)
    frames = (config.data.frames,) if config.data.frames > 1 else ()
    image = rng.uniform(-1, 1, (batch, *frames, size, size, 3)).astype(np.float32)
    seen = {"image": image}
    if "codes" in models.inputs(config):
        shapes = {name: shape.shape for name, shape in models.inputs(config).items() if name.endswith("codes")}
        seen = {name: rng.integers(0, 15, (batch, *shape[1:])).astype(np.int32) for name, shape in shapes.items()}
    asked = {name: text for name in ("question", "answer") if name in models.inputs(config)}
    rest = {
        "text": text,
        **asked,
        "mask": np.arange(batch) != 3,
        "key": np.arange(batch, dtype=np.uint32),
        "id": ["x"] * batch,
        "captions": [[]] * batch,
    }
    host: dict[str, Any] = {**seen, **rest}
    state = training.make_state()
    before = jax.device_get(state.params)
    outputs = jax.device_get(experiment.predict(training.full(state.params), experiment.placement.shard_batch(host)))
    state, metrics = training.step(state, experiment.placement.shard_batch(host))
    assert int(state.step) == 1 and int(metrics["nonfinite_steps"]) == 0 and int(metrics["examples"]) == batch - 1
    moved = jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), before, jax.device_get(state.params)))
    assert np.mean(moved) > 0.9 or (config.lora.rank and np.mean(moved) == 0.5)  # b, and a from the second step on
    assert outputs["loss"].shape == (batch,)
    assert outputs["image"].shape == image.shape if "image" in outputs else config.model.kind == "vision_language"
    # Else the step masks other codes or words than the prediction, and drops some references and texts.
    masks = any(term.kind.startswith("masked") for term in config.losses.values())
    if not getattr(config.model, "reference_dropout", 0) and not masks:
        assert float(metrics["loss"]) == pytest.approx(outputs["loss"][host["mask"]].mean(), rel=1e-5)
