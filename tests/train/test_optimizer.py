"""Schedules against closed forms, and optimizers against the papers' formulas."""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmjax import models
from mmjax.config import OptimizerConfig, load_config
from mmjax.train.optimizer import AdamWConfig, MuonConfig, kernel_axes, make_optimizer, make_schedule
from mmjax.types import leaf_name

CONFIGS = Path(__file__).parents[2] / "configs"


def test_schedules():
    warm = {"learning_rate": 0.3, "warmup_steps": 4}
    assert [float(make_schedule(OptimizerConfig(**warm), 20)(i)) for i in range(6)] == pytest.approx(
        [0.075, 0.15, 0.225, 0.3, 0.3, 0.3]
    )
    cosine = make_schedule(OptimizerConfig(**warm, schedule="cosine"), 20)
    for i in range(4, 21):
        assert float(cosine(i)) == pytest.approx(0.15 * (1 + math.cos(math.pi * (i - 4) / 16)), abs=1e-7)
    linear = make_schedule(OptimizerConfig(learning_rate=0.3, schedule="linear"), 20)
    assert [float(linear(i)) for i in (0, 10, 20)] == pytest.approx([0.3, 0.15, 0.0])


def test_adamw_with_clipping_equals_the_paper():
    """Kingma & Ba 2015, algorithm 1; Loshchilov & Hutter 2019, algorithm 2; in float64."""
    settings = AdamWConfig("adamw", learning_rate=0.1, b1=0.8, b2=0.9, weight_decay=0.2, grad_clip_norm=1.0)
    tx = make_optimizer(settings, 9)
    update = jax.jit(tx.update)
    params = {"kernel": jnp.full((2, 3), 0.5), "bias": jnp.full((3,), 0.5)}
    state = tx.init(params)
    rng = np.random.default_rng(0)
    expected = {name: np.full(value.shape, 0.5) for name, value in params.items()}
    m = {name: np.zeros(value.shape) for name, value in params.items()}
    v = {name: np.zeros(value.shape) for name, value in params.items()}
    for t in range(1, 5):
        grads = {name: rng.normal(size=value.shape) for name, value in params.items()}
        norm = math.sqrt(sum((g**2).sum() for g in grads.values()))
        for name, g in grads.items():
            g = g / max(norm, 1.0)
            m[name] = 0.8 * m[name] + 0.2 * g
            v[name] = 0.9 * v[name] + 0.1 * g**2
            step = (m[name] / (1 - 0.8**t)) / (np.sqrt(v[name] / (1 - 0.9**t)) + 1e-8)
            expected[name] -= 0.1 * (step + (0.2 * expected[name] if name == "kernel" else 0))
        with jax.numpy_dtype_promotion("standard"):
            updates, state = update({n: jnp.asarray(g, jnp.float32) for n, g in grads.items()}, state, params)
        params = optax.apply_updates(params, updates)
    for name in params:
        np.testing.assert_allclose(params[name], expected[name], rtol=1e-5)


def test_weight_decay_applies_to_matrices_only():
    tx = make_optimizer(AdamWConfig("adamw", learning_rate=0.1, weight_decay=0.2), 9)
    vectors, matrices = {"scale": jnp.ones((5, 3))}, {"kernel": jnp.ones((5, 3, 2))}  # of five layers
    params = {"stack": {"block": {"norm": vectors, "mlp": matrices}}, "table": jnp.ones((5, 3))}
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_array_equal(updates["stack"]["block"]["norm"]["scale"], 0)
    np.testing.assert_allclose(updates["stack"]["block"]["mlp"]["kernel"], -0.02, rtol=1e-6)
    np.testing.assert_allclose(updates["table"], -0.02, rtol=1e-6)


def test_muon_orthogonalizes_each_kernel():
    """Jordan et al. 2024: an update is nearly U V^T of the momentum's U S V^T; other parameters go as Adam's do."""
    shapes = {"dense": (11, 29), "q": (11, 2, 13), "out": (2, 13, 11), "convolution": (3, 3, 7, 17), "table": (11, 5)}
    rng = np.random.default_rng(0)
    inner = {name: {"kernel" if name != "table" else "table": shape} for name, shape in shapes.items()}
    tree = {"plain": inner, "block": {"q": {"kernel": (5, 11, 2, 13)}}}
    grads = jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32), tree, is_leaf=lambda x: isinstance(x, tuple)
    )
    params = jax.tree.map(jnp.ones_like, grads)
    tx = make_optimizer(MuonConfig("muon", learning_rate=0.1), 9)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    plain = {name: np.asarray(next(iter(value.values()))) for name, value in updates["plain"].items()}
    matrices = [plain["dense"], plain["q"].reshape(11, 26), plain["out"].reshape(26, 11)]
    matrices += [plain["convolution"].reshape(63, 17), *updates["block"]["q"]["kernel"].reshape(5, 11, 26)]
    for matrix in matrices:
        values = np.linalg.svd(matrix, compute_uv=False) / (0.1 * 0.2 * math.sqrt(max(matrix.shape)))
        assert values.max() < 1.3 and values.min() > 0.5, (matrix.shape, values)
    g = np.asarray(grads["plain"]["table"]["table"], np.float64)  # Dozat 2016, algorithm 2, at the first step
    expected = -0.1 * (0.9 / (1 + 0.9) + 1) * g / (np.abs(g) + 1e-8)
    np.testing.assert_allclose(plain["table"], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["quickstart", "scenes_direct"])
def test_kernel_axes_match_the_initialization(name):
    """Flax draws a kernel with the variance 1 / inputs."""
    config = load_config(str(CONFIGS / f"{name}.py"))
    for part in filter(None, (config, config.component("visual_tokenizer"))):
        params = jax.jit(lambda part=part: models.init(part, jax.random.key(0)))()
        axes = jax.tree.leaves(kernel_axes(params), is_leaf=lambda x: x is None or hasattr(x, "reduction_axis"))
        for (path, leaf), found in zip(jax.tree_util.tree_leaves_with_path(params), axes, strict=True):
            if found is not None and leaf.size > 1000:
                fan_in = math.prod(leaf.shape[axis] for axis in found.reduction_axis)
                transposed = "upsample" in leaf_name(path)  # one in four of its taps meets an output pixel
                assert float(jnp.var(leaf)) * fan_in == pytest.approx(4 if transposed else 1, rel=0.25)
