"""The transformer block that every encoder and the fusion are stacks of."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmjax.nn.attention import MultiHeadAttention


class Block(nn.Module):
    """Self-attention, cross-attention where a context is given, and a two-layer perceptron, each on the residual.

    Layers are normalized before, not after (Xiong et al. 2020), so that training needs no careful warm-up.
    """

    heads: int
    dtype: jnp.dtype = jnp.float32
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
        x += MultiHeadAttention(self.heads, self.dtype, self.kernel, name="self_attention")(self.norm("norm_self", x), mask=mask)
        if context is not None:
            attend = MultiHeadAttention(self.heads, self.dtype, self.kernel, name="cross_attention")
            x += attend(self.norm("norm_cross", x), context, context_mask)
        hidden = nn.gelu(nn.Dense(4 * d, dtype=self.dtype, name="mlp_in")(self.norm("norm_mlp", x)))
        return x + nn.Dense(d, dtype=self.dtype, name="mlp_out")(hidden)

    def norm(self, name: str, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        return nn.LayerNorm(dtype=self.dtype, name=name)(x)
