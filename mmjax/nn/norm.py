"""Layer normalization."""

import flax.linen as nn
from jaxtyping import Array, Float

from mmjax.types import FLOAT32


def layer_norm(x: Float[Array, "b *rest d"], name: str) -> Float[Array, "b *rest d"]:
    """Layer normalization of the last axis (Ba et al. 2016), in float32 for any dtype of x. Call it inside a module."""
    return nn.LayerNorm(dtype=FLOAT32, name=name)(x.astype(FLOAT32)).astype(x.dtype)
