"""Running averages of batch statistics are updated by the train step, and by nothing else."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.nn.norm import BatchNorm
from mmjax.train.batch_stats import make_apply
from mmjax.train.optimizer import AdamConfig, AdamWConfig, MuonConfig, make_optimizer
from mmjax.train.state import make_state
from mmjax.train.step import make_predict, make_step

X = np.random.default_rng(0).normal(2.0, 3.0, (3, 12, 5)).astype(np.float32)  # three steps
MASK = np.arange(12) % 5 != 3


class Inner(nn.Module):
    @nn.compact
    def __call__(self, x, rows, training):
        return BatchNorm(name="norm")(x, rows, training)


class Model(nn.Module):
    @nn.compact
    def __call__(self, x, rows, training=False):
        return {"y": nn.Dense(2, name="out")(Inner(name="inner")(x, rows, training))}


class Loss:
    def prepare(self, batch, rng):
        return {"x": batch["x"], "rows": batch["mask"], "training": rng is not None}

    def terms(self, outputs, batch):
        return {"square": jnp.sum(jnp.square(outputs["y"] - 1.0), axis=1)}

    def loss(self, terms):
        return terms["square"]


@functools.cache
def compiled(optimizer, grad_accum_steps, ema_decay):
    tx = make_optimizer(optimizer, 9)
    init = lambda key: Model().init(key, jnp.asarray(X[0]), jnp.asarray(MASK))["params"]  # noqa: E731
    state = jax.jit(make_state(init, tx, 0, ema_decay > 0))()
    return state, jax.jit(make_step(make_apply(Model()), Loss(), tx, grad_accum_steps, ema_decay))


def trained(optimizer, steps=X, mask=MASK, grad_accum_steps=1, ema_decay=0.0):
    state, step = compiled(optimizer, grad_accum_steps, ema_decay)
    states = [state]
    for x in steps:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            state, metrics = step(state, {"x": x, "mask": mask})
        states.append(state)
    return states, metrics


def averages(tree):
    return tree["inner"]["norm"]["mean"], tree["inner"]["norm"]["variance"]


OPTIMIZERS = [
    AdamWConfig("adamw", learning_rate=0.1, weight_decay=0.5, grad_clip_norm=1.0),
    MuonConfig("muon", learning_rate=0.1, weight_decay=0.5),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer.kind)
def test_running_averages_follow_the_batches_with_any_optimizer(optimizer):
    states, _ = trained(optimizer)
    mean, variance = np.zeros(5), np.ones(5)
    for x in X.astype(np.float64)[:, MASK]:
        mean, variance = 0.9 * mean + 0.1 * x.mean(0), 0.9 * variance + 0.1 * x.var(0)
    for found, expected in zip(averages(states[-1].params), (mean, variance), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    moments = jax.tree_util.tree_leaves_with_path(states[-1].opt_state)
    of_them = [
        leaf for path, leaf in moments if "'norm'" in str(path) and ("mean" in str(path) or "variance" in str(path))
    ]
    assert len(of_them) == 4  # Adam's two of each
    assert all(not leaf.any() for leaf in of_them)


def test_running_averages_follow_the_mean_over_microbatches():
    """Each as often as it has examples; of these three one has none."""
    mask = np.arange(12) % 3 != 1
    mask[0] = False
    states, _ = trained(AdamConfig("adam", learning_rate=0.1), X[:1], mask, grad_accum_steps=3)
    parts = [X[0].astype(np.float64)[i::3][mask[i::3]] for i in (0, 2)]
    mean, variance = (sum(len(x) * getattr(x, of)(0) for x in parts) / 7 for of in ("mean", "var"))
    found = averages(states[-1].params)
    np.testing.assert_allclose(found[0], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(found[1], 0.9 + 0.1 * variance, rtol=1e-5)
    assert [x.shape[0] for x in parts] == [3, 4]


def test_empty_and_nonfinite_steps_change_nothing():
    optimizer = AdamConfig("adam", learning_rate=0.1)
    large, none = X[:1] * np.float32(1e25), np.zeros(12, bool)  # too large to be squared
    for steps, mask, bad in ((X[:1], none, 0), (X[:1] * np.float32(np.inf), MASK, 1), (large, MASK, 1)):
        states, metrics = trained(optimizer, steps, mask)
        assert int(metrics["nonfinite_steps"]) == bad
        jax.tree.map(np.testing.assert_array_equal, averages(states[0].params), averages(states[1].params))


def test_ema_averages_the_running_averages():
    states, _ = trained(AdamConfig("adam", learning_rate=0.1), ema_decay=0.15)
    mean = np.zeros(5)
    for count, state in enumerate(states[1:]):
        decay = min(0.15, (1 + count) / (10 + count))
        mean = decay * mean + (1 - decay) * np.asarray(averages(state.params)[0], np.float64)
    np.testing.assert_allclose(averages(states[-1].ema)[0], mean, rtol=1e-5)


def test_evaluation_uses_running_averages():
    states, _ = trained(AdamConfig("adam", learning_rate=0.1))
    predict = jax.jit(make_predict(make_apply(Model()), Loss()))
    whole, alone = (predict(states[-1].params, {"x": x, "mask": np.ones(len(x), bool)}) for x in (X[0], X[0, :1]))
    assert set(whole) == {"y", "terms/square", "loss"}
    np.testing.assert_allclose(alone["y"], whole["y"][:1], atol=1e-5)
