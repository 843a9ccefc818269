"""Text decoder: an autoregressive transformer that attends to a context."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mmjax.models.rules import STACK, Rules
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.dense import dot_general
from mmjax.nn.positions import rope_angles, sincos_1d
from mmjax.nn.transformer import BlockCache, Stack
from mmjax.types import BEGIN, FLOAT32

RULES: Rules = (*STACK, (r".*decoder/embedding", ("model", "fsdp")))  # of a module named "decoder"


class Cache(NamedTuple):
    """State of autoregressive decoding: keys and values of each layer, and the number of tokens with BEGIN."""

    kv_cache: BlockCache
    length: Int[Array, ""]


class TextDecoder(nn.Module):
    """Predicts each token of a text from those before it and a context."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    compute: Compute = DEFAULT

    def setup(self) -> None:
        self.embedding = self.param("embedding", nn.initializers.normal(1.0), (self.vocabulary, self.width))
        self.stack = Stack(self.layers, self.heads, self.compute)
        self.norm = nn.LayerNorm(dtype=FLOAT32)
        self.bias = self.param("bias", nn.initializers.zeros, (self.vocabulary,))

    def __call__(self, text: Int[Array, "b t"], context: Float[Array, "b n d"]) -> Float[Array, "b t v"]:
        """Logits of every token of a text, each from those before it (teacher forcing), float32."""
        length = text.shape[1]
        before = jnp.pad(text[:, :-1], ((0, 0), (1, 0)), constant_values=BEGIN)
        causal = jnp.asarray(np.tril(np.ones((length, length), np.bool_)))[None, None]
        x = self._embed(before, sincos_1d(length, self.width))
        angles = rope_angles((length,), self.width // self.heads)
        return self._logits(self.stack(x, causal, context, None, angles)[0])

    def prefill(self, context: Float[Array, "b n d"], length: int) -> tuple[Float[Array, "b v"], Cache]:
        """Logits of the first token, and a cache for a text of `length` tokens."""
        shape = (self.layers, len(context), length, self.heads, self.width // self.heads)
        empty = (jnp.zeros(shape, self.compute.dtype), jnp.zeros(shape, self.compute.dtype))
        first = jnp.full((len(context),), BEGIN, jnp.int32)
        return self._next(first, Cache((empty, None), jnp.int32(0)), context)

    def step(self, token: Int[Array, "b"], cache: Cache) -> tuple[Float[Array, "b v"], Cache]:
        """Logits of the token after this one."""
        return self._next(token, cache, None)

    def _next(
        self, token: Int[Array, "b"], cache: Cache, context: Float[Array, "b n d"] | None
    ) -> tuple[Float[Array, "b v"], Cache]:
        (keys, _), index = cache.kv_cache[0], cache.length
        length = keys.shape[2]
        position = jax.lax.dynamic_slice_in_dim(sincos_1d(length, self.width), index, 1)
        angles = jnp.asarray(rope_angles((length,), self.width // self.heads))
        angles = jax.lax.dynamic_slice_in_dim(angles, index, 1)
        mask = (jnp.arange(length) <= index)[None, None, None]
        x = self._embed(token[:, None], position)
        x, kv_cache = self.stack(x, mask, context, None, angles, cache.kv_cache, index)
        return self._logits(x)[:, 0], Cache(kv_cache, index + 1)

    def _embed(self, text: Int[Array, "b t"], positions: Float[Array, "t d"]) -> Float[Array, "b t d"]:
        return (self.embedding[text] + positions[None]).astype(self.compute.dtype)

    def _logits(self, x: Float[Array, "b t d"]) -> Float[Array, "b t v"]:
        x = self.norm(x.astype(FLOAT32)).astype(self.compute.dtype)
        matrix = (self.embedding * jnp.float32(self.width**-0.5)).T.astype(x.dtype)
        logits = dot_general(self.compute)(x, matrix, (((2,), (0,)), ((), ())))
        return logits.astype(jnp.float32) + self.bias[None, None]


def gather_cache(cache: Cache, rows: Int[Array, "r"]) -> Cache:
    """The cache of these rows, which may repeat."""
    return Cache(jax.tree.map(lambda x: x[:, rows], cache.kv_cache), cache.length)
