"""Fusion: visual tokens that look at the text."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmjax.nn.transformer import Block


class CrossAttentionFusion(nn.Module):
    """A transformer over the visual tokens that cross-attends to the text in every layer."""

    layers: int
    heads: int
    dtype: jnp.dtype = jnp.float32
    kernel: str = "xla"

    @nn.compact
    def __call__(
        self, visual: Float[Array, "b n d"], text: Float[Array, "b t d"], text_mask: Bool[Array, "b 1 1 t"]
    ) -> Float[Array, "b n d"]:
        for i in range(self.layers):
            block = Block(self.heads, self.dtype, self.kernel, name=f"block_{i}")
            visual = block(visual, context=text, context_mask=text_mask)
        return nn.LayerNorm(dtype=self.dtype, name="norm")(visual)
