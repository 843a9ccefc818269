"""Pooling of a sequence into one vector."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.nn.attention import MultiHeadAttention
from mmjax.nn.mlp import mlp
from mmjax.nn.partitioner import UNSHARDED, Partitioner
from mmjax.types import FLOAT32


class AttentionPooling(nn.Module):
    """Multi-head attention pooling: a learned query attends to all features, followed by a residual MLP.

    Lee et al. 2019 (arXiv:1810.00825, equation 11), as in the head of Zhai et al. 2022 (arXiv:2106.04560).
    """

    heads: int
    dtype: np.dtype = FLOAT32
    partitioner: Partitioner = UNSHARDED

    @nn.compact
    def __call__(self, x: Float[Array, "b s d"], mask: Bool[Array, "b #h 1 s"] | None = None) -> Float[Array, "b d"]:
        """Pools x; `mask` is False on what is ignored. If that is everything, the result is the mean of the values."""
        b, _, d = x.shape
        query = self.param("query", nn.initializers.normal(1.0), (d,)).astype(self.dtype)
        # A single query fits no fused kernel.
        attention = MultiHeadAttention(self.heads, self.dtype, partitioner=self.partitioner, name="attention")
        pooled, _ = attention(jnp.broadcast_to(query[None, None], (b, 1, d)), x, mask)
        return (pooled + mlp(pooled, self.dtype))[:, 0]
