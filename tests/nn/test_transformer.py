"""Attention over space and time of clips, against masked attention over all tokens."""

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.nn.attention import MultiHeadAttention
from mmjax.nn.positions import rope_angles
from mmjax.nn.transformer import Block

FRAMES, PLACES = 3, 5
X = jax.random.normal(jax.random.key(0), (2, FRAMES * PLACES, 12))
SPACE = rope_angles((1, PLACES), 6)


def test_factorized_attention_over_space_and_time():
    module = Block(2, frames=FRAMES)
    params = jax.jit(module.init)(jax.random.key(1), X, angles=SPACE)["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.05 * jnp.sin(jnp.arange(leaf.size).reshape(leaf.shape)), params)

    def normalized(x, name):
        x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * params[name]["scale"][None, None] + params[name]["bias"][None, None]

    @jax.jit
    def expected(x):
        frame, place = np.divmod(np.arange(FRAMES * PLACES), PLACES)
        for name, seen, angles in (("self", frame, SPACE[place]), ("time", place, rope_angles((FRAMES,), 6)[frame])):
            mask = jnp.tile(seen[:, None] == seen, (2, 1, 1, 1))
            given = {"params": params[f"{name}_attention"]}
            x += MultiHeadAttention(2).apply(given, normalized(x, f"norm_{name}"), None, mask, angles)[0]
        hidden = jax.nn.gelu(
            normalized(x, "norm_mlp") @ params["mlp_in"]["kernel"] + params["mlp_in"]["bias"][None, None]
        )
        return x + hidden @ params["mlp_out"]["kernel"] + params["mlp_out"]["bias"][None, None]

    found = jax.jit(lambda x: module.apply({"params": params}, x, angles=SPACE)[0])(X)
    np.testing.assert_allclose(found, expected(X), atol=1e-5)
