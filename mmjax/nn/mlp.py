"""The two-layer MLP of a transformer block."""

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Float

from mmjax.nn.norm import layer_norm


def mlp(x: Float[Array, "b t d"], dtype: np.dtype) -> Float[Array, "b t d"]:
    """LayerNorm, a hidden layer of 4 d units with GELU, and a projection back to d. Call it inside a module."""
    hidden = nn.gelu(nn.Dense(4 * x.shape[-1], dtype=dtype, name="mlp_in")(layer_norm(x, "norm_mlp")))
    return nn.Dense(x.shape[-1], dtype=dtype, name="mlp_out")(hidden)
