"""Layers of the autoencoders of latent diffusion (Rombach et al. 2022, arXiv:2112.10752, appendix G)."""

import functools
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from mmjax.nn.attention import MultiHeadAttention
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.types import FLOAT32

EPSILON = 1e-6


def group_norm(x: Float[Array, "b y x c"], groups: int, name: str) -> Float[Array, "b y x c"]:
    """Group normalization (Wu & He 2018, arXiv:1803.08494) in float32. Call it inside a module."""
    normalize = nn.GroupNorm(groups, epsilon=EPSILON, dtype=FLOAT32, use_fast_variance=False, name=name)
    normal: jax.Array = normalize(x.astype(FLOAT32)).astype(x.dtype)
    return normal


def convolve(features: int, compute: Compute, name: str | None = None, side: int = 3) -> nn.Conv:
    """A convolution that keeps the size."""
    return nn.Conv(features, (side, side), padding=side // 2, dtype=compute.dtype, name=name)


def upsample(x: Float[Array, "b y x c"]) -> Float[Array, "b v u c"]:
    """Each value as a square of four."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


class Residual(nn.Module):
    """Residual block of two convolutions; the shortcut is projected where the channels change."""

    channels: int
    groups: int
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, x: Float[Array, "b y x c"]) -> Float[Array, "b y x d"]:
        compute, groups = self.compute, self.groups
        y = convolve(self.channels, compute, "first")(nn.silu(group_norm(x, groups, "norm_first")))
        y = compute.partitioner.with_sharding_constraint(y)
        y = convolve(self.channels, compute, "second")(nn.silu(group_norm(y, groups, "norm_second")))
        if x.shape[-1] != self.channels:
            x = convolve(self.channels, compute, "shortcut", 1)(x)
        return x + y


class Middle(nn.Module):
    """Two residual blocks, and between them attention of one head over all positions."""

    config: Any
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, x: Float[Array, "b y x c"]) -> Float[Array, "b y x c"]:
        config, (b, high, wide, c) = self.config, x.shape
        block = functools.partial(Residual, c, config.norm_num_groups, self.compute)
        x = block(name="block_0")(x)
        if config.mid_block_add_attention:
            tokens = group_norm(x, config.norm_num_groups, "norm").reshape(b, high * wide, c)
            attended, _ = MultiHeadAttention(1, self.compute, name="attention")(tokens)
            x = x + attended.reshape(b, high, wide, c)
        return block(name="block_1")(x)


class Encoder(nn.Module):
    """Images to the mean and the log variance of the latents, before the last convolution."""

    config: Any
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, image: Float[Array, "b y x 3"]) -> Float[Array, "b high wide c"]:
        config, compute = self.config, self.compute
        widths = config.widths("encoder")
        x = convolve(widths[0], compute, "conv_in")(image.astype(compute.dtype))
        for i, width in enumerate(widths):
            for j in range(config.layers_per_block):
                x = Residual(width, config.norm_num_groups, compute, name=f"level_{i}_{j}")(x)
            if i < len(widths) - 1:  # padded on the right and at the bottom alone
                half = nn.Conv(width, (3, 3), 2, ((0, 1), (0, 1)), dtype=compute.dtype, name=f"resize_{i}")
                x = half(x)
        x = Middle(config, compute, name="middle")(x)
        x = nn.silu(group_norm(x, config.norm_num_groups, "norm_out"))
        return convolve(2 * config.latent_channels, compute, "conv_out")(x)


class Decoder(nn.Module):
    """Latents to images."""

    config: Any
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, z: Float[Array, "b high wide c"]) -> Float[Array, "b y x 3"]:
        config, compute = self.config, self.compute
        widths = config.widths("decoder")
        x = Middle(config, compute, name="middle")(convolve(widths[0], compute, "conv_in")(z))
        for i, width in enumerate(widths):
            for j in range(config.layers_per_block + 1):
                x = Residual(width, config.norm_num_groups, compute, name=f"level_{i}_{j}")(x)
            if i < len(widths) - 1:
                x = convolve(width, compute, f"resize_{i}")(upsample(x))
        x = nn.silu(group_norm(x, config.norm_num_groups, "norm_out"))
        return convolve(3, compute, "conv_out")(x)


def to_patches(z: Float[Array, "b y x c"], side: int) -> Float[Array, "b high wide d"]:
    """Each square of latents as one, its channels as (c, row, column)."""
    b, y, x, c = z.shape
    squares = z.reshape(b, y // side, side, x // side, side, c).transpose(0, 1, 3, 5, 2, 4)
    return squares.reshape(b, y // side, x // side, c * side**2)


def from_patches(z: Float[Array, "b high wide d"], side: int) -> Float[Array, "b y x c"]:
    """The inverse of to_patches."""
    b, high, wide, d = z.shape
    squares = z.reshape(b, high, wide, d // side**2, side, side).transpose(0, 1, 4, 2, 5, 3)
    return squares.reshape(b, high * side, wide * side, d // side**2)
