"""The train step: equal on any mesh and for any gradient accumulation, and robust to non-finite values."""

import functools
import itertools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import DictKey, keystr

from mmjax import losses, models
from mmjax.config import MeshConfig, resolve
from mmjax.nn.compute import Compute, Partitioner
from mmjax.parallel import Placement, make_mesh, match_rules
from mmjax.train.spikes import WARMUP
from mmjax.train.state import make_state, state_shardings
from mmjax.train.step import make_step

TRANSFORMER = {"width": 32, "heads": 8, "text_layers": 1}
TEXT = {"length": 7, "vocabulary": 320}
TOKENIZER = {
    "data": {"size": 32},
    "text": TEXT,
    "model": {"kind": "visual_tokenizer", "widths": (8, 16), "levels": (4, 4, 4)},
    "losses": {"mean_absolute_error": {}, "mean_squared_error": {}},
    "train": {"steps": 1},
}
CONFIGS = {
    "direct generator": {
        "data": {"size": 32},
        "text": TEXT,
        "model": {**TRANSFORMER, "vision_layers": 1, "fusion_layers": 1, "decoder_widths": (16, 8)},
        "train": {"steps": 1},
    },
    "masked generator": {
        "data": {"size": 32},
        "text": TEXT,
        "components": {"visual_tokenizer": TOKENIZER},
        "model": {**TRANSFORMER, "kind": "masked_generator", "layers": 2, "local_blocks": 1, "text_dropout": 0.3},
        "losses": {"masked_visual_modeling": {}, "masked_language_modeling": {"weight": 0.1}},
        "compute": {"remat": True},
        "train": {"steps": 1},
    },
    "visual tokenizer": TOKENIZER,
    "vision language": {
        "data": {"size": 32},
        "text": TEXT,
        "model": {
            **TRANSFORMER,
            "kind": "vision_language",
            "patch": 8,
            "stem": (16,),
            "layers": 1,
            "fusion_layers": 1,
            "decoder_layers": 1,
            "embedding": 16,
            "classify": "question",
            "classes": 5,
        },
        "losses": {
            "contrastive": {},
            "matching": {},
            "captioning": {},
            "answering": {},
            "classification": {},
            "masked_language_modeling": {},
            "masked_patch_modeling": {},
        },
        "train": {"steps": 1},
    },
}
# A kernel of each that lies on all devices of the mesh together.
SPREAD = {
    "direct generator": ("fusion", "stack", "block", "mlp_in", "kernel"),
    "masked generator": ("layers", "block", "mlp_in", "kernel"),
    "visual tokenizer": ("encoder", "block_1_0", "first", "kernel"),
    "vision language": ("decoder", "stack", "block", "mlp_in", "kernel"),
}
BATCH = {
    "image": np.random.default_rng(0).uniform(-1, 1, (16, 32, 32, 3)).astype(np.float32),
    "text": np.random.default_rng(1).integers(0, 320, (16, 7)).astype(np.int32),
    "codes": np.random.default_rng(2).integers(0, 64, (16, 8, 8)).astype(np.int32),
    "question": np.random.default_rng(3).integers(0, 320, (16, 7)).astype(np.int32),
    "answer": np.random.default_rng(4).integers(0, 320, (16, 7)).astype(np.int32),
    "label": np.arange(16, dtype=np.int32) % 6 - 1,
    "mask": np.arange(16) % 5 != 3,
}
MESHES = {
    "data=8": MeshConfig(8, 1, 1),
    "fsdp=8": MeshConfig(1, 8, 1),
    "model=8": MeshConfig(1, 1, 8),
    "data=2, fsdp=2, model=2": MeshConfig(2, 2, 2),
    "slice=2, fsdp=4": MeshConfig(1, 4, 1, slice=2),
}
QUICK = {name: "slice=2, fsdp=4" if name == "direct generator" else "data=2, fsdp=2, model=2" for name in CONFIGS}


@functools.cache
def beginning(kind: str):
    """The config, what makes its state, and that state, which a trace without memory keeps the gradients in."""
    config, tx = resolve(CONFIGS[kind]), optax.trace(0.0)
    make = make_state(lambda key: models.init(config, key), tx, 0, False)
    return config, tx, make, jax.device_get(jax.jit(make)())


def placed(mesh: MeshConfig, devices: int, kind: str):
    """Where batches and the state of a config lie on a mesh."""
    config, tx, make, _ = beginning(kind)
    placement = Placement(make_mesh(mesh, jax.devices()[:devices]))
    shapes = jax.eval_shape(make)
    params = match_rules(shapes.params, models.sharding_rules(config), placement.mesh)
    return placement, state_shardings(shapes, params, placement.replicated, tx)


@functools.cache
def compiled_step(mesh: MeshConfig, devices: int, grad_accum_steps: int, kind: str):
    config, tx, _, _ = beginning(kind)
    loss = losses.build(config, functools.partial(models.find(config).prepare, config))
    placement, shardings = placed(mesh, devices, kind)
    partitioner = Partitioner(placement.with_sharding_constraint, placement.shard_map)
    module = models.build(config, Compute(remat=config.compute.remat, partitioner=partitioner))
    step = make_step(lambda params, **inputs: module.apply({"params": params}, **inputs), loss, tx, grad_accum_steps)
    shardings_in, shardings_out = (shardings, placement.batch), (shardings, placement.replicated)
    return placement, shardings, jax.jit(step, in_shardings=shardings_in, out_shardings=shardings_out)


def gradients(mesh: MeshConfig, devices: int, grad_accum_steps: int = 1, kind: str = "direct generator"):
    """Loss and gradients of one step: differences of parameters would round them."""
    state = beginning(kind)[3]
    placement, shardings, compiled = compiled_step(mesh, devices, grad_accum_steps, kind)
    state, metrics = compiled(jax.device_put(state, shardings), placement.shard_batch(BATCH))
    return float(metrics["loss"]), jax.device_get(state.opt_state.trace), state


def assert_near(found, expected):
    """Relative to the largest gradient of the same parameter, 1e-5.

    A bias of keys moves all logits of a row alike, which a softmax does not see: its gradient is zero but for
    rounding, which is measured by the gradient of the kernel beside it.
    """
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    scales = {path: np.abs(b).max() for path, b in jax.tree.leaves_with_path(expected[1])}

    def near(path, a, b):
        keys = path[-2:] == (DictKey("k"), DictKey("bias"))
        scale = scales[(*path[:-1], DictKey("kernel"))] if keys else scales[path]
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(scale, 1e-2), err_msg=keystr(path))

    jax.tree.map_with_path(near, found[1], expected[1])


@functools.cache
def on_one_device(kind: str):
    return gradients(MeshConfig(1, 1, 1), 1, kind=kind)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(*pair, marks=[] if pair in QUICK.items() else [pytest.mark.slow])
        for pair in itertools.product(CONFIGS, MESHES)
    ],
)
def test_eight_devices_equal_one(kind, name):
    mesh = MESHES[name]
    found = gradients(mesh, 8, kind=kind)
    assert_near(found, on_one_device(kind))
    kernel = functools.reduce(operator.getitem, SPREAD[kind], found[2].params)
    assert {shard.data.size for shard in kernel.addressable_shards} == {kernel.size // (mesh.fsdp * mesh.model)}


def test_state_is_initialized_sharded():
    _, _, make, expected = beginning("masked generator")
    _, shardings = placed(MESHES["data=2, fsdp=2, model=2"], 8, "masked generator")
    made = jax.jit(make, out_shardings=shardings)()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), jax.device_get(made.params), expected.params)
    kernel = functools.reduce(operator.getitem, SPREAD["masked generator"], made.params)
    assert {shard.data.size for shard in kernel.addressable_shards} == {kernel.size // 4}


@pytest.mark.parametrize("parts", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_gradient_accumulation_equals_the_whole_batch(parts):
    # The mask leaves the parts with different numbers of examples.
    assert_near(gradients(MeshConfig(1, 1, 1), 1, parts), on_one_device("direct generator"))


def test_masked_examples_have_no_influence():
    image = BATCH["image"].copy()
    image[~BATCH["mask"]] = 0.9
    was = BATCH["image"]
    BATCH["image"] = image
    try:
        assert_near(gradients(MeshConfig(1, 1, 1), 1), on_one_device("direct generator"))
    finally:
        BATCH["image"] = was


class Line:
    """The smallest training loss: outputs are params["w"] times x, the loss is their square."""

    def prepare(self, batch, rng):
        return {"x": batch["x"]}

    def terms(self, outputs, batch):
        return {"square": jnp.square(outputs["y"])}

    def loss(self, terms):
        return terms["square"]


def run_line(values, ema_decay=0.0, skip_grad_spikes=0.0):
    tx = optax.adam(0.1)
    state = make_state(lambda key: {"w": jnp.ones(())}, tx, 0, ema_decay > 0, spikes=skip_grad_spikes > 0)()
    line = make_step(
        lambda params, x: {"y": params["w"] * x}, Line(), tx, ema_decay=ema_decay, skip_grad_spikes=skip_grad_spikes
    )
    step = jax.jit(line)
    states = [state]
    for value in values:
        state, metrics = step(state, {"x": jnp.full(3, value), "mask": jnp.ones(3, bool)})
        states.append(state)
    return states, metrics


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_nonfinite_steps_change_nothing(bad):
    states, metrics = run_line([1.0, bad, bad])
    assert int(states[-1].step) == 3 and int(metrics["nonfinite_steps"]) == 2
    jax.tree.map(np.testing.assert_array_equal, (states[1].params, states[1].opt_state),
                 (states[3].params, states[3].opt_state))  # fmt: skip
    after, metrics = run_line([1.0, bad, 1.0])
    assert int(metrics["nonfinite_steps"]) == 0
    np.testing.assert_array_equal(after[-1].params["w"], run_line([1.0, 1.0])[0][-1].params["w"])


def test_skipped_spikes_change_nothing():
    usual = [1.0] * WARMUP
    assert run_line([*usual, 30.0])[1]["nonfinite_steps"] == 0
    states, metrics = run_line([*usual, 30.0], skip_grad_spikes=10.0)
    assert int(metrics["nonfinite_steps"]) == 1 and np.isfinite(metrics["loss"])
    np.testing.assert_array_equal(states[-1].params["w"], states[-2].params["w"])
    assert states[-1].grad_norm_ema.average > states[-2].grad_norm_ema.average
    np.testing.assert_array_equal(states[-2].params["w"], run_line(usual)[0][-1].params["w"])


def test_ema_equals_the_formula():
    states, _ = run_line([1.0, 2.0, 1.0, 3.0], ema_decay=0.15)
    average = 1.0
    for count, state in enumerate(states[1:]):
        decay = min(0.15, (1 + count) / (10 + count))
        average = decay * average + (1 - decay) * float(state.params["w"])
    assert float(states[-1].ema["w"]) == pytest.approx(average, rel=1e-6)
    assert states[-1].eval_params() is states[-1].ema
