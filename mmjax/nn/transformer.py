"""The transformer block that every encoder and the fusion are stacks of."""

import flax.linen as nn
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
    ) -> Float[Array, "b t d"]:
        d = x.shape[-1]
        x += MultiHeadAttention(self.heads, self.dtype, self.kernel, name="self_attention")(
            layer_norm(x, "norm_self"), mask=mask
        )
        if context is not None:
            attend = MultiHeadAttention(self.heads, self.dtype, self.kernel, name="cross_attention")
            x += attend(layer_norm(x, "norm_cross"), context, context_mask)
        hidden = nn.gelu(nn.Dense(4 * d, dtype=self.dtype, name="mlp_in")(layer_norm(x, "norm_mlp")))
        return x + nn.Dense(d, dtype=self.dtype, name="mlp_out")(hidden)
