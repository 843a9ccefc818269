"""Residual block of convolutions."""

from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Float

from mmjax.nn.convolution import Convolution
from mmjax.nn.norm import layer_norm
from mmjax.nn.partitioner import UNSHARDED, Partitioner
from mmjax.types import FLOAT32


class ResidualBlock(nn.Module):
    """Pre-activation residual block of two convolutions, of any rank; keeps the shape.

    LayerNorm over the channels, not GroupNorm, so that normalization mixes neither positions nor frames.
    """

    causal: bool = False
    implementation: str = "native"
    dtype: np.dtype = FLOAT32
    partitioner: Partitioner = UNSHARDED

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *space c"]:
        features = x.shape[-1]
        convolve: dict[str, Any] = {"causal": self.causal, "implementation": self.implementation, "dtype": self.dtype}
        y = Convolution(features, **convolve, name="first")(nn.silu(layer_norm(x, "norm_first")))
        # Without the constraint, jaxlib 0.10 picks a sharding here with which some gradients are wrong.
        y = self.partitioner.with_sharding_constraint(y)
        y = Convolution(features, **convolve, name="second")(nn.silu(layer_norm(y, "norm_second")))
        return x + y
