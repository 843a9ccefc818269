"""From a sequence of features to one."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.nn.attention import MultiHeadAttention
from mmjax.nn.norm import layer_norm
from mmjax.nn.partitioner import UNSHARDED, Partitioner
from mmjax.types import FLOAT32


class AttentionPooling(nn.Module):
    """A learned query attends to all features, and a perceptron follows on the residual.

    Lee et al. 2019 (arXiv:1810.00825, equation 11), as the head of Zhai et al. 2022 (arXiv:2106.04560).
    """

    heads: int
    dtype: np.dtype = FLOAT32
    partitioner: Partitioner = UNSHARDED

    @nn.compact
    def __call__(self, x: Float[Array, "b s d"], mask: Bool[Array, "b #h 1 s"] | None = None) -> Float[Array, "b d"]:
        """`mask` is False on what is not looked at; where that is all of it, the mean of the values is taken."""
        b, _, d = x.shape
        query = self.param("query", nn.initializers.normal(1.0), (d,)).astype(self.dtype)
        # Its single query fits no kernel but the compiler's own.
        attention = MultiHeadAttention(self.heads, self.dtype, partitioner=self.partitioner, name="attention")
        pooled, _ = attention(jnp.broadcast_to(query[None, None], (b, 1, d)), x, mask)
        hidden = nn.gelu(nn.Dense(4 * d, dtype=self.dtype, name="mlp_in")(layer_norm(pooled, "norm_mlp")))
        pooled += nn.Dense(d, dtype=self.dtype, name="mlp_out")(hidden)
        return pooled[:, 0]
