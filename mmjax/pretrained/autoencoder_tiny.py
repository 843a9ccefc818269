"""TAESD, a small autoencoder for the latents of another one (github.com/madebyollin/taesd); `AutoencoderTiny`.

A plain residual network of convolutions without normalization, trained to give and to take the latents of Stable
Diffusion, SDXL, SD3 or FLUX.1 as their generators do, already scaled; in diffusers' names.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmjax.nn.compute import DEFAULT, Compute
from mmjax.pretrained.autoencoder_layers import convolve, upsample
from mmjax.pretrained.names import Table, convolution
from mmjax.pretrained.spec import FamilySpec
from mmjax.types import FLOAT32

LARGEST_LATENT = 3.0  # of the decoder's input, where tanh saturates
MAX_LEVELS = 10


@dataclass(frozen=True)
class TinyConfig:
    """config.json. Latents have as many levels of blocks as there are numbers of them, each of half the sides."""

    FIXED: ClassVar = {
        "in_channels": 3,
        "out_channels": 3,
        "act_fn": "relu",
        "upsample_fn": "nearest",
        "upsampling_scaling_factor": 2,
    }

    encoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    decoder_block_out_channels: tuple[int, ...] = (64, 64, 64, 64)
    num_encoder_blocks: tuple[int, ...] = (1, 3, 3, 3)
    num_decoder_blocks: tuple[int, ...] = (3, 3, 3, 1)
    latent_channels: int = 4
    scaling_factor: float = 1.0
    shift_factor: float = 0.0

    def __post_init__(self) -> None:
        sizes = [self.levels(side) for side in ("encoder", "decoder")]
        for (blocks, widths), side in zip(sizes, ("encoder", "decoder"), strict=True):
            if len(set(widths)) != 1:  # published ones are of one width; the convolutions between levels keep it
                raise ValueError(f"{side}_block_out_channels: {list(widths)} is not supported, only equal numbers")
            if not len(blocks) == len(widths) == len(sizes[0][0]) <= MAX_LEVELS:
                raise ValueError(f"num_{side}_blocks: must be as many numbers as all others of blocks, at most 10")
        if self.scaling_factor <= 0:
            raise ValueError("scaling_factor: must be above 0")

    def levels(self, side: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Blocks and channels of each level of a side."""
        if side == "encoder":
            return self.num_encoder_blocks, self.encoder_block_out_channels
        return self.num_decoder_blocks, self.decoder_block_out_channels

    @property
    def stride(self) -> int:
        """Pixels on a side of a latent."""
        return 1 << len(self.num_encoder_blocks) - 1

    @property
    def channels(self) -> int:
        """Of the latents."""
        return self.latent_channels

    def scaling(self) -> str:
        """How latents are scaled, in words."""
        return f"(z - {self.shift_factor:g}) * {self.scaling_factor:g}"


class Block(nn.Module):
    """Three convolutions with a residual connection."""

    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, x: Float[Array, "b y x c"]) -> Float[Array, "b y x c"]:
        y, c = x, x.shape[-1]
        for name in ("first", "second", "third"):
            y = convolve(c, self.compute, name)(y if name == "first" else nn.relu(y))
        return nn.relu(x + y)


class Encoder(nn.Module):
    """Images from 0 to 1 to latents."""

    config: TinyConfig
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, x: Float[Array, "b y x 3"]) -> Float[Array, "b high wide c"]:
        config, compute = self.config, self.compute
        blocks, (width, *_) = config.levels("encoder")
        x = convolve(width, compute, "conv_in")(x)
        for i, count in enumerate(blocks):
            if i:
                half = nn.Conv(width, (3, 3), 2, 1, use_bias=False, dtype=compute.dtype, name=f"resize_{i - 1}")
                x = half(x)
            for j in range(count):
                x = Block(compute, name=f"level_{i}_{j}")(x)
        return convolve(config.latent_channels, compute, "conv_out")(x)


class Decoder(nn.Module):
    """Latents to images from 0 to 1."""

    config: TinyConfig
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, z: Float[Array, "b high wide c"]) -> Float[Array, "b y x 3"]:
        config, compute = self.config, self.compute
        blocks, (width, *_) = config.levels("decoder")
        x = nn.relu(convolve(width, compute, "conv_in")(jnp.tanh(z / LARGEST_LATENT) * LARGEST_LATENT))
        for i, count in enumerate(blocks):
            if i:
                larger = nn.Conv(width, (3, 3), padding=1, use_bias=False, dtype=compute.dtype, name=f"resize_{i - 1}")
                x = larger(upsample(x))
            for j in range(count):
                x = Block(compute, name=f"level_{i}_{j}")(x)
        return convolve(3, compute, "conv_out")(x)


class AutoencoderTiny(nn.Module):
    """The autoencoder. Images are from -1 to 1, with sides that are multiples of the stride."""

    config: TinyConfig
    compute: Compute = DEFAULT

    def setup(self) -> None:
        self.encoder, self.decoder = Encoder(self.config, self.compute), Decoder(self.config, self.compute)

    def encode(self, image: Float[Array, "b y x 3"]) -> Float[Array, "b high wide c"]:
        """The latents of images."""
        z = self.encoder((image.astype(self.compute.dtype) + 1) / 2)
        return (z - self._number(self.config.shift_factor)) * self._number(self.config.scaling_factor)

    def decode(self, latents: Float[Array, "b high wide c"]) -> Float[Array, "b y x 3"]:
        """Images of latents as `encode` gives them."""
        z = latents.astype(self.compute.dtype) / self._number(self.config.scaling_factor)
        return self.decoder(z + self._number(self.config.shift_factor)) * 2 - 1

    def _number(self, value: float) -> Any:
        return np.asarray(value, FLOAT32).astype(self.compute.dtype)


def table(config: TinyConfig) -> Table:
    """The tensors of the parameters. Of a side all layers are numbered in one row, those without tensors as well."""
    rows: Table = ()
    for side in ("encoder", "decoder"):
        blocks, _ = config.levels(side)
        names = ["conv_in"] + [""] * (side == "decoder")  # the activation
        for i, count in enumerate(blocks):
            names += [""] * (side == "decoder" and i > 0)
            names += [f"resize_{i - 1}"] * (i > 0) + [f"level_{i}_{j}" for j in range(count)]
        names.append("conv_out")
        for number, name in enumerate(names):
            tensor, leaf = f"{side}.layers.{number}", f"{side}/{name}"
            if name.startswith("level"):
                for place, inner in ((0, "first"), (2, "second"), (4, "third")):
                    rows += convolution(f"{tensor}.conv.{place}", f"{leaf}/{inner}")
            elif name:
                rows += convolution(tensor, leaf, bias=name.startswith("conv"))
    return rows


FAMILY = FamilySpec("AutoencoderTiny", TinyConfig, AutoencoderTiny, table, ("latents",))
