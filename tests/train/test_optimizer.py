"""Schedules against their closed forms, and the optimizer against Adam's own formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmjax.config import Optimizer
from mmjax.train.optimizer import make_optimizer, make_schedule


def test_schedules():
    warm = {"learning_rate": 0.3, "warmup_steps": 4}
    assert [float(make_schedule(Optimizer(**warm), 20)(i)) for i in range(6)] == pytest.approx(
        [0.075, 0.15, 0.225, 0.3, 0.3, 0.3]
    )
    cosine = make_schedule(Optimizer(**warm, schedule="cosine"), 20)
    for i in range(4, 21):
        assert float(cosine(i)) == pytest.approx(0.15 * (1 + math.cos(math.pi * (i - 4) / 16)), abs=1e-7)
    linear = make_schedule(Optimizer(learning_rate=0.3, schedule="linear"), 20)
    assert [float(linear(i)) for i in (0, 10, 20)] == pytest.approx([0.3, 0.15, 0.0])


def test_adam_with_clipping_and_decay_equals_the_papers():
    """Kingma & Ba 2015, algorithm 1; Loshchilov & Hutter 2019, algorithm 2; in float64."""
    settings = Optimizer(name="adamw", learning_rate=0.1, b1=0.8, b2=0.9, weight_decay=0.2, clip=1.0)
    tx = make_optimizer(settings, 9)
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
            updates, state = tx.update({n: jnp.asarray(g, jnp.float32) for n, g in grads.items()}, state, params)
        params = optax.apply_updates(params, updates)
    for name in params:
        np.testing.assert_allclose(params[name], expected[name], rtol=1e-5)
