"""Attention pooling against its definition in NumPy."""

import math

import jax
import numpy as np

from mmjax.nn.transformer import AttentionPooling

X = jax.random.normal(jax.random.key(0), (2, 7, 12))
MASK = np.arange(7)[None, None, None] < np.array([7, 4]).reshape(2, 1, 1, 1)


def expected(params, x, mask):
    """Zhai et al. 2022 after Lee et al. 2019, one example and one head at a time, in float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    attention, out = p["attention"], []
    for row, seen in zip(np.asarray(x, np.float64), mask[:, 0, 0], strict=True):
        pooled = attention["out"]["bias"].copy()
        for head in range(3):
            project = {name: attention[name]["kernel"][:, head] for name in "qkv"}
            shift = {name: attention[name]["bias"][head] for name in "qkv"}
            q = p["query"] @ project["q"] + shift["q"]
            k, v = (row[seen] @ project[name] + shift[name] for name in "kv")
            weights = np.exp(k @ q / math.sqrt(4))
            pooled += weights @ v / weights.sum() @ attention["out"]["kernel"][head]
        y = (pooled - pooled.mean()) / np.sqrt(pooled.var() + 1e-6)
        y = (y * p["norm_mlp"]["scale"] + p["norm_mlp"]["bias"]) @ p["mlp_in"]["kernel"] + p["mlp_in"]["bias"]
        y = y * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3))) / 2
        out.append(pooled + y @ p["mlp_out"]["kernel"] + p["mlp_out"]["bias"])
    return np.array(out)


def test_equals_the_definition():
    module = AttentionPooling(3)
    params = jax.jit(module.init)(jax.random.key(1), X)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    pool = jax.jit(lambda *seen: module.apply({"params": params}, *seen))
    np.testing.assert_allclose(pool(X, MASK), expected(params, X, MASK), atol=1e-4)
    np.testing.assert_allclose(pool(X), expected(params, X, np.ones_like(MASK)), atol=1e-4)
    np.testing.assert_allclose(pool(X[:, ::-1]), pool(X), atol=1e-5)  # the order does not matter
