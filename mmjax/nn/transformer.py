"""The transformer block that every encoder and the fusion are stacks of."""

import functools

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.nn.attention import ATTENDED, MultiHeadAttention
from mmjax.nn.layout import ANYWHERE, Layout
from mmjax.nn.norm import layer_norm
from mmjax.nn.positions import grid_angles
from mmjax.types import FLOAT32

# What of a layer is kept for the backward pass nevertheless, where it is computed anew in it.
POLICIES = {
    "nothing": jax.checkpoint_policies.nothing_saveable,
    "attention": jax.checkpoint_policies.save_only_these_names(ATTENDED),
    "products": jax.checkpoint_policies.save_from_both_policies(
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
    layout: Layout = ANYWHERE
    frames: int = 1

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        mask: Bool[Array, "b #h #t t"] | None = None,
        context: Float[Array, "b s e"] | None = None,
        context_mask: Bool[Array, "b #h #t s"] | None = None,
        angles: Float[Array | np.ndarray, "u a"] | None = None,
    ) -> Float[Array, "b t d"]:
        """`angles` are the rotary positions of the tokens of each frame. Clips of several frames take no mask."""
        b, t, d = x.shape
        attention = functools.partial(MultiHeadAttention, self.heads, self.dtype, self.kernel, self.layout)
        # Without this the compiler may gather the activations of the whole batch instead of the parameters of a layer.
        x = self.layout.constrain(x)
        frames = layer_norm(x, "norm_self").reshape(b * self.frames, t // self.frames, d)
        x += attention(name="self_attention")(frames, mask=mask, angles=angles).reshape(b, t, d)
        if self.frames > 1:
            x += self._over_time(layer_norm(x, "norm_time"), attention(name="time_attention"))
        if context is not None:
            x += attention(name="cross_attention")(layer_norm(x, "norm_cross"), context, context_mask)
        hidden = nn.gelu(nn.Dense(4 * d, dtype=self.dtype, name="mlp_in")(layer_norm(x, "norm_mlp")))
        return x + nn.Dense(d, dtype=self.dtype, name="mlp_out")(hidden)

    def _over_time(self, x: Float[Array, "b t d"], attention: nn.Module) -> Float[Array, "b t d"]:
        b, t, d = x.shape
        places = x.reshape(b, self.frames, t // self.frames, d).swapaxes(1, 2)
        attended = attention(places.reshape(-1, self.frames, d), angles=grid_angles((self.frames,), d // self.heads))
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
    layout: Layout = ANYWHERE
    frames: int = 1

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        mask: Bool[Array, "b #h #t t"] | None = None,
        context: Float[Array, "b s e"] | None = None,
        context_mask: Bool[Array, "b #h #t s"] | None = None,
        angles: Float[Array | np.ndarray, "u a"] | None = None,
    ) -> Float[Array, "b t d"]:
        def layer(block: nn.Module, x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return block(x, mask, context, context_mask, angles), None

        kind = nn.remat(Block, prevent_cse=False, policy=POLICIES[self.policy]) if self.remat else Block
        block = kind(self.heads, self.dtype, self.kernel, self.layout, self.frames, name="block")
        scan = nn.scan(
            layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.layers, unroll=self.unroll
        )
        return scan(block, x, None)[0]
