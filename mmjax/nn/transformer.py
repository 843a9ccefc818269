"""Transformer layers: blocks, the scanned stack of them, and attention pooling."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmjax.nn.attention import ATTENDED, KVCache, MultiHeadAttention
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.dense import dense
from mmjax.nn.norm import layer_norm
from mmjax.nn.positions import rope_angles

# Of self-attention and of cross-attention; in a stack with the layers as the first axis.
BlockCache = tuple[KVCache, KVCache | None]
# Remat policies: which values are saved for the backward pass; the others are recomputed.
POLICIES = {
    "nothing": jax.checkpoint_policies.nothing_saveable,
    "attention": jax.checkpoint_policies.save_only_these_names(ATTENDED),
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(ATTENDED),
    ),
}


def mlp(x: Float[Array, "b t d"], compute: Compute) -> Float[Array, "b t d"]:
    """LayerNorm, a hidden layer of 4 d units with GELU, and a projection back to d. Call it inside a module."""
    hidden = nn.gelu(dense(4 * x.shape[-1], compute, "mlp_in")(layer_norm(x, "norm_mlp")))
    return dense(x.shape[-1], compute, "mlp_out")(hidden)


class Block(nn.Module):
    """Pre-LN transformer block: self-attention, cross-attention if there is a context, and an MLP.

    LayerNorm precedes each of them (Xiong et al. 2020).

    Attributes:
        frames: of a clip whose tokens are concatenated over frames. With several frames, self-attention is within each
            frame and followed by attention over time at each position (Arnab et al. 2021, arXiv:2103.15691, model 3).
    """

    heads: int
    compute: Compute = DEFAULT
    frames: int = 1

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        mask: Bool[Array, "#b #h #t s"] | None = None,
        context: Float[Array, "b n e"] | None = None,
        context_mask: Bool[Array, "#b #h #t n"] | None = None,
        angles: Float[Array | np.ndarray, "u a"] | None = None,
        kv_cache: BlockCache | None = None,
        cache_index: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b t d"], BlockCache]:
        """Applies the block.

        Args:
            mask: of self-attention; clips of several frames take none.
            angles: RoPE angles within a frame.
            kv_cache: in autoregressive decoding, that of the previous call.
            cache_index: with it, the position of x in the sequence.

        Returns:
            The output, and the updated KV cache.
        """
        b, t, d = x.shape
        # Without this the compiler may gather activations instead of FSDP parameters.
        x = self.compute.partitioner.with_sharding_constraint(x)
        self_cache, cross_cache = (None, None) if kv_cache is None else kv_cache
        normed = layer_norm(x, "norm_self").reshape(b * self.frames, t // self.frames, d)
        attention = MultiHeadAttention(self.heads, self.compute, name="self_attention")
        attended, self_cache = attention(normed, None, mask, angles, self_cache, cache_index)
        x += attended.reshape(b, t, d)
        if self.frames > 1:
            places = layer_norm(x, "norm_time").reshape(b, self.frames, t // self.frames, d).swapaxes(1, 2)
            attention = MultiHeadAttention(self.heads, self.compute, name="time_attention")
            time_angles = rope_angles((self.frames,), d // self.heads)
            attended, _ = attention(places.reshape(-1, self.frames, d), angles=time_angles)
            x += attended.reshape(places.shape).swapaxes(1, 2).reshape(b, t, d)
        if context is not None or cross_cache is not None:
            normed = layer_norm(x, "norm_cross")
            attention = MultiHeadAttention(self.heads, self.compute, name="cross_attention")
            attended, cross_cache = attention(normed, context, context_mask, None, cross_cache)
            x += attended
        return x + mlp(x, self.compute), (self_cache, cross_cache)


class Stack(nn.Module):
    """A stack of blocks, as one scanned layer, so that compile time does not grow with the depth.

    The parameters of all layers are stacked along a first axis.

    Attributes:
        layers: number of blocks.
        frames: see Block.
    """

    layers: int
    heads: int
    compute: Compute = DEFAULT
    frames: int = 1

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        mask: Bool[Array, "#b #h #t s"] | None = None,
        context: Float[Array, "b n e"] | None = None,
        context_mask: Bool[Array, "#b #h #t n"] | None = None,
        angles: Float[Array | np.ndarray, "u a"] | None = None,
        kv_cache: BlockCache | None = None,
        cache_index: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b t d"], Any]:
        """Applies all blocks; see Block. The updated KV cache is None where none is given."""

        def layer(block: Block, x: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
            x, cache = block(x, mask, context, context_mask, angles, cache, cache_index)
            return x, None if kv_cache is None else cache

        compute = self.compute
        remat = {"prevent_cse": False, "policy": POLICIES[compute.remat_policy]}
        block = (nn.remat(Block, **remat) if compute.remat else Block)(self.heads, compute, self.frames, name="block")
        scan = nn.scan(
            layer,
            variable_axes={"params": 0, "attention_maps": 0},
            split_rngs={"params": True},
            length=self.layers,
            unroll=compute.unroll or self.layers,
        )
        return scan(block, x, kv_cache)


class AttentionPooling(nn.Module):
    """Multi-head attention pooling: a learned query attends to all features, followed by a residual MLP.

    Lee et al. 2019 (arXiv:1810.00825, equation 11), as in the head of Zhai et al. 2022 (arXiv:2106.04560).
    """

    heads: int
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, x: Float[Array, "b s d"], mask: Bool[Array, "b #h 1 s"] | None = None) -> Float[Array, "b d"]:
        """Pools x; `mask` is False on what is ignored. If that is everything, the result is the mean of the values."""
        b, _, d = x.shape
        query = self.param("query", nn.initializers.normal(1.0), (d,)).astype(self.compute.dtype)
        compute = dataclasses.replace(self.compute, attention="xla")  # a single query fits no fused kernel
        attention = MultiHeadAttention(self.heads, compute, name="attention")
        pooled, _ = attention(jnp.broadcast_to(query[None, None], (b, 1, d)), x, mask)
        return (pooled + mlp(pooled, compute))[:, 0]
