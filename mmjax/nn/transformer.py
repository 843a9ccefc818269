"""The transformer block that every encoder and the fusion are stacks of."""

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.nn.attention import MultiHeadAttention
from mmjax.nn.norm import layer_norm
from mmjax.types import FLOAT32


class Block(nn.Module):
    """Self-attention, cross-attention where a context is given, and a two-layer perceptron, each on the residual.

    Layers are normalized before, not after (Xiong et al. 2020), so that training needs no careful warm-up.
    """

    heads: int
    dtype: np.dtype = FLOAT32
    kernel: str = "xla"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        mask: Bool[Array, "b #h #t t"] | None = None,
        context: Float[Array, "b s e"] | None = None,
        context_mask: Bool[Array, "b #h #t s"] | None = None,
        angles: Float[Array | np.ndarray, "t a"] | None = None,
    ) -> Float[Array, "b t d"]:
        d = x.shape[-1]
        x += MultiHeadAttention(self.heads, self.dtype, self.kernel, name="self_attention")(
            layer_norm(x, "norm_self"), mask=mask, angles=angles
        )
        if context is not None:
            attend = MultiHeadAttention(self.heads, self.dtype, self.kernel, name="cross_attention")
            x += attend(layer_norm(x, "norm_cross"), context, context_mask)
        hidden = nn.gelu(nn.Dense(4 * d, dtype=self.dtype, name="mlp_in")(layer_norm(x, "norm_mlp")))
        return x + nn.Dense(d, dtype=self.dtype, name="mlp_out")(hidden)


class Stack(nn.Module):
    """Blocks one after the other, as one scanned layer: compiled once, however many there are.

    The parameters of all layers lie in one array each, the layer its first axis.

    Attributes:
        layers: how many.
        remat: compute each layer anew in the backward pass, to save the memory of its activations.
        unroll: layers in each turn of the loop; the values are the same.
    """

    layers: int
    heads: int
    dtype: np.dtype = FLOAT32
    kernel: str = "xla"
    remat: bool = False
    unroll: int = 1

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        mask: Bool[Array, "b #h #t t"] | None = None,
        context: Float[Array, "b s e"] | None = None,
        context_mask: Bool[Array, "b #h #t s"] | None = None,
        angles: Float[Array | np.ndarray, "t a"] | None = None,
    ) -> Float[Array, "b t d"]:
        def layer(block: nn.Module, x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return block(x, mask, context, context_mask, angles), None

        block = (nn.remat(Block, prevent_cse=False) if self.remat else Block)(
            self.heads, self.dtype, self.kernel, name="block"
        )
        scan = nn.scan(
            layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.layers, unroll=self.unroll
        )
        return scan(block, x, None)[0]
