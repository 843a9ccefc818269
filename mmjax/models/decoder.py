"""Decoder: transposed convolutions from a grid of features to pixels."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmjax.nn.convolution import Convolution, TransposedConvolution
from mmjax.nn.norm import layer_norm
from mmjax.nn.residual import ResidualBlock
from mmjax.types import FLOAT32


class Decoder(nn.Module):
    """Doubles the sides once for each width, after residual blocks if any, then convolves to the output's channels.

    Works on any rank: [b, y, x, d] gives a picture, [b, f, y, x, d] a video.

    Attributes:
        widths: channels after each transposed convolution.
        channels: of the output.
        blocks: residual blocks before each transposed convolution.
        convolution: form of the transposed convolution.
    """

    widths: Sequence[int]
    channels: int = 3
    blocks: int = 0
    convolution: str = "native"
    dtype: np.dtype = FLOAT32

    @nn.compact
    def __call__(self, x: Float[Array, "b *grid d"]) -> Float[Array, "b *pixels c"]:
        for i, width in enumerate(self.widths):
            for j in range(self.blocks):
                x = ResidualBlock(self.dtype, name=f"block_{i}_{j}")(x)
            x = TransposedConvolution(width, self.convolution, self.dtype, name=f"upsample_{i}")(x)
            x = nn.gelu(layer_norm(x, f"norm_{i}"))
        return Convolution(self.channels, dtype=self.dtype, name="pixels")(x).astype(jnp.float32)
