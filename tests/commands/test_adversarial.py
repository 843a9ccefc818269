"""A config's discriminator: wired, sharded, left out of evaluation; and configs that ask for what cannot be."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from mmjax import evaluate, losses, models
from mmjax.config import Config, MeshConfig, load_config, resolve
from mmjax.engine import setup, trainer
from mmjax.models import discriminator
from mmjax.parallel import make_mesh, match_rules
from mmjax.train.state import make_state, state_shardings
from mmjax.train.step import make_step
from mmjax.types import UserError

LOSSES = {"mean_absolute_error": {}, "feature_matching": {"weight": 0.5}, "adversarial": {"weight": 0.3}}
CONFIG = {
    "data": {"size": 32},
    "model": {"kind": "visual_tokenizer", "widths": (8,), "blocks": 0, "levels": (5, 3)},
    "losses": LOSSES,
    "discriminator": {"widths": (8, 16), "regularizer": "r1", "regularizer_weight": 0.1},
    "train": {"steps": 9, "batch": 16, "best_metric": "-mean_absolute_error"},
    "evaluate": {"evaluators": ("losses", "feature_distance"), "samples": 0},
}
BATCH = {
    "image": np.random.default_rng(0).uniform(-1, 1, (16, 32, 32, 3)).astype(np.float32),
    "mask": np.arange(16) % 5 != 3,
    "key": np.arange(16, dtype=np.uint32),
}


def moved(mesh: MeshConfig, devices: int, accumulate: int = 1):
    """Metrics of one step, and the gradients of both players, kept by a trace without memory."""
    config = resolve(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "make_mesh", lambda axes: make_mesh(axes, jax.devices()[:devices]))
        experiment = setup.build(dataclasses.replace(config, mesh=mesh))
    tx, placement = optax.trace(0.0), experiment.placement
    second = trainer._adversary(config, experiment.compute)
    assert second is not None
    second = dataclasses.replace(second, tx=tx)
    # Of seed 0 the last bias has a gradient that nearly cancels, which is all rounding.
    make = make_state(lambda key: models.init(config, key), tx, 1, False, second)
    shapes = jax.eval_shape(make)
    theirs = match_rules(shapes.adversary.params, discriminator.sharding_rules(config), placement.mesh)
    shardings = state_shardings(shapes, experiment.params, placement.replicated, tx, (theirs, tx))
    step = jax.jit(
        make_step(experiment.apply, experiment.loss, tx, accumulate, adversary=second),
        in_shardings=(shardings, placement.batch, placement.replicated),
        out_shardings=(shardings, placement.replicated),
    )
    state = jax.jit(make, out_shardings=shardings)()
    after, metrics = step(state, placement.shard_batch(BATCH), {})
    if mesh.fsdp * mesh.model > 1:
        kernel = after.adversary.params["down_1"]["kernel"]
        assert kernel.addressable_shards[0].data.size < kernel.size
    return jax.device_get((metrics, (after.opt_state.trace, after.adversary.opt_state.trace)))


def test_eight_devices_and_parts_equal_one():
    metrics, grads = moved(MeshConfig(1, 1, 1), 1)
    found = moved(MeshConfig(2, 2, 2), 8, 2)
    for name, value in metrics.items():
        assert found[0][name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(np.abs(b).max(), 1e-2)), found[1], grads
    )


def test_evaluation_leaves_the_discriminator_out():
    config = resolve(CONFIG)
    assert losses.adversarial_terms(config) == ("feature_matching", "adversarial")
    assert evaluate.metric_names(config) == ("loss", "mean_absolute_error", "reconstruction/feature_distance")
    setup.check(config)
    experiment = setup.build(config)
    params = jax.jit(lambda: models.init(config, jax.random.key(0)), out_shardings=experiment.params)()
    outputs = experiment.predict(params, experiment.placement.shard_batch(BATCH))
    assert {name for name in outputs if name.startswith("terms/")} == {"terms/mean_absolute_error"}
    np.testing.assert_allclose(outputs["loss"], outputs["terms/mean_absolute_error"])


def test_a_file_of_weights_needs_no_discriminator_for_its_term():
    terms = {"mean_absolute_error": {}, "perceptual": {}}
    config = resolve(CONFIG | {"losses": terms, "perceptual": {"weights": "/nowhere.safetensors"}})
    assert losses.adversarial_terms(config) == ()
    with pytest.raises(UserError, match=r"perceptual.weights: /nowhere.safetensors "):
        setup.check(config)


@pytest.mark.parametrize(
    ("changes", "field", "wrong"),
    [
        ({"losses": {"mean_absolute_error": {}, "perceptual": {}}}, "losses.perceptual", "perceptual.weights"),
        (
            {"model": {"kind": "vision_language"}, "losses": {"captioning": {}, "feature_matching": {}}},
            "losses.feature_matching",
            "model.kind=vision_language",
        ),
        ({"losses": {"feature_matching": {}, "adversarial": {}}}, "losses", "feature_matching, adversarial"),
        ({"discriminator": {"b2": 1.0}}, "discriminator.b2", "1.0"),
        ({"discriminator": {"train_from": 9, "start": 3}}, "discriminator.start", "9"),
        ({"discriminator": {"widths": ()}}, "discriminator.widths", ""),
        ({"discriminator": {"loss": "wasserstein"}}, "discriminator.loss", "wasserstein"),
    ],
)
def test_configs_that_cannot_be(changes: dict[str, object], field: str, wrong: str) -> None:
    with pytest.raises(UserError) as error:
        resolve(CONFIG | changes)
    message = str(error.value)
    assert message.startswith(f"{field}: ") and wrong in message and "\n" not in message


@pytest.mark.parametrize("argument", ["adversarial", "adversarial,size=128", "adversarial,tiny"])
def test_the_config_of_the_tokenizer_takes_one(argument: str) -> None:
    config: Config = load_config(f"configs/coco_tokenizer.py:{argument}", {"data.root": "/nowhere"})
    setup.check(config)
    assert 0 < config.discriminator.train_from < config.discriminator.start
    shapes = jax.eval_shape(lambda: discriminator.init(config, jax.random.key(0)))
    match_rules(shapes, discriminator.sharding_rules(config), make_mesh(MeshConfig(2, 2, 2)))
