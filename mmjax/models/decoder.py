"""Decoder from a grid of features to pixels."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.convolution import Convolution, TransposedConvolution
from mmjax.nn.norm import layer_norm
from mmjax.nn.residual import ResidualBlock


class Decoder(nn.Module):
    """Transposed convolutions of stride 2, one per width, after optional residual blocks.

    [b, y, x, d] gives an image, [b, f, y, x, d] a clip; convolutions over time are causal.

    Attributes:
        widths: channels after each transposed convolution.
        channels: output channels.
        blocks: residual blocks before each transposed convolution.
        time_strides: for clips, how 1 + k frames change at each width: unchanged (1) or to 1 + 2 k (2).
    """

    widths: Sequence[int]
    channels: int = 3
    blocks: int = 0
    time_strides: Sequence[int] = ()
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, x: Float[Array, "b *grid d"]) -> Float[Array, "b *pixels c"]:
        causal = bool(self.time_strides)
        compute = self.compute
        convolve: dict[str, Any] = {"implementation": compute.convolution, "dtype": compute.dtype}
        for i, width in enumerate(self.widths):
            x = compute.partitioner.with_sharding_constraint(x)
            for j in range(self.blocks):
                x = ResidualBlock(causal, **convolve, partitioner=compute.partitioner, name=f"block_{i}_{j}")(x)
            if causal and self.time_strides[i] == 1:  # each frame by itself
                frames = x.shape[:2]
                x = TransposedConvolution(width, **convolve, name=f"upsample_{i}")(x.reshape(-1, *x.shape[2:]))
                x = x.reshape(*frames, *x.shape[1:])
            else:
                x = TransposedConvolution(width, causal, **convolve, name=f"upsample_{i}")(x)
            x = nn.gelu(layer_norm(x, f"norm_{i}"))
        window = (1, 3, 3) if causal else 3
        return Convolution(self.channels, window, causal=causal, **convolve, name="pixels")(x).astype(jnp.float32)
