"""Fusion: visual tokens that look at the text."""

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.nn.layout import ANYWHERE, Layout
from mmjax.nn.norm import layer_norm
from mmjax.nn.transformer import Block
from mmjax.types import FLOAT32


class CrossAttentionFusion(nn.Module):
    """A transformer over the visual tokens that cross-attends to the text in every layer."""

    layers: int
    heads: int
    dtype: np.dtype = FLOAT32
    kernel: str = "xla"
    layout: Layout = ANYWHERE

    @nn.compact
    def __call__(
        self, visual: Float[Array, "b n d"], text: Float[Array, "b t d"], text_mask: Bool[Array, "b 1 1 t"]
    ) -> Float[Array, "b n d"]:
        for i in range(self.layers):
            block = Block(self.heads, self.dtype, self.kernel, self.layout, name=f"block_{i}")
            visual = block(visual, context=text, context_mask=text_mask)
        return layer_norm(visual, "norm")
