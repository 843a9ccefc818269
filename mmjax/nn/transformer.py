"""The transformer block that every encoder and the fusion are stacks of."""

import functools
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmjax.nn.attention import ATTENDED, MultiHeadAttention
from mmjax.nn.norm import layer_norm
from mmjax.nn.partitioner import UNSHARDED, Partitioner
from mmjax.nn.positions import rope_angles
from mmjax.types import FLOAT32

# Keys and values of a layer: of what came before, and of the context.
_Before = Float[Array, "_ s h k"]
_About = Float[Array, "_ n h k"]
BlockCache = tuple[tuple[_Before, _Before], tuple[_About, _About] | None]
# The same of all layers, whose number is the first axis.
_AllBefore = Float[Array, "layers b s h k"]
_AllAbout = Float[Array, "layers b n h k"]
StackCache = tuple[tuple[_AllBefore, _AllBefore], tuple[_AllAbout, _AllAbout] | None]
# What of a layer is kept for the backward pass nevertheless, where it is computed anew in it.
POLICIES = {
    "nothing": jax.checkpoint_policies.nothing_saveable,
    "attention": jax.checkpoint_policies.save_only_these_names(ATTENDED),
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(ATTENDED),
    ),
}


class Block(nn.Module):
    """Self-attention, cross-attention where a context is given, and a two-layer perceptron, each on the residual.

    Layers are normalized before, not after (Xiong et al. 2020), so that training needs no careful warm-up.

    Attributes:
        frames: of a clip, whose tokens are those of one frame after the other. Where there are several, self-attention
            is within each frame, and a second one over time at each place follows (Arnab et al. 2021,
            arXiv:2103.15691, model 3).
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
        """`angles` are the rotary positions of the tokens of each frame. Clips of several frames take no mask."""
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
        """The same, for a sequence that is made token after token.

        Args:
            known: keys and values of what came before and of the context, from the call before.
            place: of x in the sequence.

        Returns:
            Also the keys and values for the call after.
        """
        b, t, d = x.shape
        attention = functools.partial(MultiHeadAttention, self.heads, self.dtype, self.kernel, self.partitioner)
        # Without this the compiler may gather the activations of the whole batch instead of the parameters of a layer.
        x = self.partitioner.with_sharding_constraint(x)
        before, about = (None, None) if kv_cache is None else kv_cache
        normed = layer_norm(x, "norm_self").reshape(b * self.frames, t // self.frames, d)
        seen, before = attention(name="self_attention")(normed, None, mask, angles, before, cache_index)
        x += seen.reshape(b, t, d)
        if self.frames > 1:
            x += self._over_time(layer_norm(x, "norm_time"), attention(name="time_attention"))
        if context is not None or about is not None:
            normed = layer_norm(x, "norm_cross")
            seen, about = attention(name="cross_attention")(normed, context, context_mask, None, about)
            x += seen
        hidden = nn.gelu(nn.Dense(4 * d, dtype=self.dtype, name="mlp_in")(layer_norm(x, "norm_mlp")))
        return x + nn.Dense(d, dtype=self.dtype, name="mlp_out")(hidden), (before, about)

    def _over_time(self, x: Float[Array, "b t d"], attention: nn.Module) -> Float[Array, "b t d"]:
        b, t, d = x.shape
        places = x.reshape(b, self.frames, t // self.frames, d).swapaxes(1, 2)
        angles = rope_angles((self.frames,), d // self.heads)
        attended, _ = attention(places.reshape(-1, self.frames, d), angles=angles)
        return attended.reshape(places.shape).swapaxes(1, 2).reshape(b, t, d)


class Stack(nn.Module):
    """Blocks one after the other, as one scanned layer: compiled once, however many there are.

    The parameters of all layers lie in one array each, the layer its first axis.

    Attributes:
        layers: how many.
        remat: compute each layer anew in the backward pass, to save the memory of its activations.
        policy: what is kept for it nevertheless; see POLICIES.
        unroll: layers in each turn of the loop; the values are the same.
        frames: see Block.
    """

    layers: int
    heads: int
    dtype: np.dtype = FLOAT32
    kernel: str = "xla"
    remat: bool = False
    unroll: int = 1
    policy: str = "nothing"
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
        """As Block."""
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
        """As Block.decode, for all layers."""
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

        kept = {"prevent_cse": False, "policy": POLICIES[self.policy], "methods": ["decode"]}
        kind = nn.remat(Block, **kept) if self.remat else Block
        block = kind(self.heads, self.dtype, self.kernel, self.partitioner, self.frames, name="block")
        scan = nn.scan(
            layer,
            variable_axes={"params": 0, "attention_maps": 0},
            split_rngs={"params": True},
            length=self.layers,
            unroll=self.unroll,
        )
        return scan(block, x, kv_cache)
