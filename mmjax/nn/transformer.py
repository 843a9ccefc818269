"""Transformer blocks, and the scanned stack of them."""

import functools
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmjax.nn.attention import ATTENDED, MultiHeadAttention
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.mlp import mlp
from mmjax.nn.norm import layer_norm
from mmjax.nn.partitioner import UNSHARDED, Partitioner
from mmjax.nn.positions import rope_angles
from mmjax.types import FLOAT32

# The KV caches of a block: of self-attention, and of cross-attention.
_Self = Float[Array, "_ s h k"]
_Cross = Float[Array, "_ n h k"]
BlockCache = tuple[tuple[_Self, _Self], tuple[_Cross, _Cross] | None]
# The same of a stack, with the layers as the first axis.
_SelfOfLayers = Float[Array, "layers b s h k"]
_CrossOfLayers = Float[Array, "layers b n h k"]
StackCache = tuple[tuple[_SelfOfLayers, _SelfOfLayers], tuple[_CrossOfLayers, _CrossOfLayers] | None]
# Remat policies: which values are saved for the backward pass; the others are recomputed.
POLICIES = {
    "nothing": jax.checkpoint_policies.nothing_saveable,
    "attention": jax.checkpoint_policies.save_only_these_names(ATTENDED),
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(ATTENDED),
    ),
}


class Block(nn.Module):
    """Pre-LN transformer block: self-attention, cross-attention if there is a context, and an MLP.

    LayerNorm precedes each of them (Xiong et al. 2020).

    Attributes:
        frames: of a clip whose tokens are concatenated over frames. With several frames, self-attention is within each
            frame and followed by attention over time at each position (Arnab et al. 2021, arXiv:2103.15691, model 3).
    """

    heads: int
    dtype: np.dtype = FLOAT32
    kernel: str = "xla"
    partitioner: Partitioner = UNSHARDED
    frames: int = 1

    def __call__(
        self,
        x: Float[Array, "b t d"],
        mask: Bool[Array, "#b #h #t t"] | None = None,
        context: Float[Array, "b s e"] | None = None,
        context_mask: Bool[Array, "#b #h #t s"] | None = None,
        angles: Float[Array | np.ndarray, "u a"] | None = None,
    ) -> Float[Array, "b t d"]:
        """Applies the block; `angles` are the RoPE angles within a frame. Clips of several frames take no mask."""
        return self.decode(x, mask, context, context_mask, angles)[0]

    @nn.compact
    def decode(
        self,
        x: Float[Array, "b t d"],
        mask: Bool[Array, "#b #h #t s"] | None = None,
        context: Float[Array, "b n e"] | None = None,
        context_mask: Bool[Array, "#b #h #t n"] | None = None,
        angles: Float[Array | np.ndarray, "u a"] | None = None,
        kv_cache: BlockCache | None = None,
        cache_index: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b t d"], BlockCache]:
        """Applies the block in autoregressive decoding.

        Args:
            kv_cache: of the previous call.
            cache_index: the position of x in the sequence.

        Returns:
            The output, and the updated KV cache.
        """
        b, t, d = x.shape
        attention = functools.partial(MultiHeadAttention, self.heads, self.dtype, self.kernel, self.partitioner)
        # Without this the compiler may gather activations instead of FSDP parameters.
        x = self.partitioner.with_sharding_constraint(x)
        self_cache, cross_cache = (None, None) if kv_cache is None else kv_cache
        normed = layer_norm(x, "norm_self").reshape(b * self.frames, t // self.frames, d)
        attended, self_cache = attention(name="self_attention")(normed, None, mask, angles, self_cache, cache_index)
        x += attended.reshape(b, t, d)
        if self.frames > 1:
            x += self._over_time(layer_norm(x, "norm_time"), attention(name="time_attention"))
        if context is not None or cross_cache is not None:
            normed = layer_norm(x, "norm_cross")
            attended, cross_cache = attention(name="cross_attention")(normed, context, context_mask, None, cross_cache)
            x += attended
        return x + mlp(x, self.dtype), (self_cache, cross_cache)

    def _over_time(self, x: Float[Array, "b t d"], attention: nn.Module) -> Float[Array, "b t d"]:
        b, t, d = x.shape
        places = x.reshape(b, self.frames, t // self.frames, d).swapaxes(1, 2)
        angles = rope_angles((self.frames,), d // self.heads)
        attended, _ = attention(places.reshape(-1, self.frames, d), angles=angles)
        return attended.reshape(places.shape).swapaxes(1, 2).reshape(b, t, d)


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

    def __call__(
        self,
        x: Float[Array, "b t d"],
        mask: Bool[Array, "#b #h #t t"] | None = None,
        context: Float[Array, "b s e"] | None = None,
        context_mask: Bool[Array, "#b #h #t s"] | None = None,
        angles: Float[Array | np.ndarray, "u a"] | None = None,
    ) -> Float[Array, "b t d"]:
        """Applies all blocks; see Block."""
        return self._run(x, mask, context, context_mask, angles, None, None, keep=False)[0]

    def decode(
        self,
        x: Float[Array, "b t d"],
        mask: Bool[Array, "#b #h #t s"] | None = None,
        context: Float[Array, "b n e"] | None = None,
        context_mask: Bool[Array, "#b #h #t n"] | None = None,
        angles: Float[Array | np.ndarray, "u a"] | None = None,
        kv_cache: StackCache | None = None,
        cache_index: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b t d"], StackCache]:
        """Applies all blocks in autoregressive decoding; see Block.decode."""
        return self._run(x, mask, context, context_mask, angles, kv_cache, cache_index, keep=True)

    @nn.compact
    def _run(
        self,
        x: jax.Array,
        mask: jax.Array | None,
        context: jax.Array | None,
        context_mask: jax.Array | None,
        angles: Any,
        kv_cache: Any,
        cache_index: jax.Array | None,
        keep: bool,
    ) -> tuple[jax.Array, Any]:
        def layer(block: Block, x: jax.Array, kv_cache: Any) -> tuple[jax.Array, Any]:
            x, kv_cache = block.decode(x, mask, context, context_mask, angles, kv_cache, cache_index)
            return x, kv_cache if keep else None

        compute = self.compute
        kept = {"prevent_cse": False, "policy": POLICIES[compute.remat_policy], "methods": ["decode"]}
        kind = nn.remat(Block, **kept) if compute.remat else Block
        block = kind(self.heads, compute.dtype, compute.attention, compute.partitioner, self.frames, name="block")
        scan = nn.scan(
            layer,
            variable_axes={"params": 0, "attention_maps": 0},
            split_rngs={"params": True},
            length=self.layers,
            unroll=compute.unroll or self.layers,
        )
        return scan(block, x, kv_cache)
