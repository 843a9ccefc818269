"""The autoencoder of latent diffusion: Stable Diffusion 1 to 3, SDXL, FLUX.1; `AutoencoderKL` in diffusers.

A convolutional variational autoencoder (Rombach et al. 2022, arXiv:2112.10752, section 3.1 and appendix G), in
diffusers' names or in those of the original code, alone or as a part of a whole checkpoint.
"""

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmjax.nn.compute import DEFAULT, Compute
from mmjax.pretrained.autoencoder_layers import Decoder, Encoder, convolve, from_patches, to_patches
from mmjax.pretrained.names import Row, Table, attention, convolution, norm
from mmjax.pretrained.safetensors_files import CONFIG
from mmjax.pretrained.spec import FamilySpec, read_config
from mmjax.pretrained.weights import read_weights, weights_in
from mmjax.terminal import printable
from mmjax.types import FLOAT32, UserError

MAX_LEVELS = 10
# Of a whole checkpoint of the original code, what is not the autoencoder.
WHOLE = (
    r"((model|model_ema|cond_stage_model|conditioner|text_encoders|loss)\..*"
    r"|(alphas_cumprod|betas|denoiser|log_one_minus_alphas_cumprod|logvar|posterior_|scale_factor|sqrt_).*)"
)
PREFIX = r"^(first_stage_model|vae)\."
# Of published models, by the number of channels.
SCALINGS = {
    4: "0.18215 and 0 (Stable Diffusion 1 and 2), 0.13025 and 0 (SDXL)",
    16: "1.5305 and 0.0609 (Stable Diffusion 3), 0.3611 and 0.1159 (FLUX.1)",
}
BLOCKS = {"down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"}


@dataclass(frozen=True)
class AutoencoderConfig:
    """What config.json has in common with that of FLUX.2, and whether the names are those of the original code."""

    FIXED: ClassVar = {"in_channels": 3, "out_channels": 3, "act_fn": "silu"}

    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    latent_channels: int = 4
    norm_num_groups: int = 32
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True
    original: bool = False

    patch: ClassVar[int] = 1  # latents on a side of a square that is one; where there are more, statistics scale them

    def __post_init__(self) -> None:
        for side in ("encoder", "decoder"):
            widths = self.widths(side)
            if not 1 <= len(widths) <= MAX_LEVELS:
                raise ValueError(f"block_out_channels: must be 1 to {MAX_LEVELS} numbers, not {len(widths)}")
            if odd := [width for width in widths if width % self.norm_num_groups]:
                raise ValueError(f"norm_num_groups: {self.norm_num_groups} does not divide {odd[0]} channels")

    def widths(self, side: str) -> tuple[int, ...]:
        """Channels of the levels of a side, in its order."""
        return self.block_out_channels if side == "encoder" else self.block_out_channels[::-1]

    @property
    def stride(self) -> int:
        """Pixels on a side of a latent."""
        return self.patch << len(self.block_out_channels) - 1

    @property
    def channels(self) -> int:
        """Of the latents."""
        return self.latent_channels * self.patch**2


@dataclass(frozen=True)
class KlConfig(AutoencoderConfig):
    """config.json of `AutoencoderKL`."""

    scaling_factor: float = 0.18215
    shift_factor: float = 0.0
    latents_mean: tuple[float, ...] = ()
    latents_std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("latents_mean", "latents_std"):
            if len(getattr(self, name)) not in (0, self.latent_channels):
                raise ValueError(f"{name}: must be {self.latent_channels} numbers, as latent_channels says")
        if min((self.scaling_factor, *self.latents_std)) <= 0:
            raise ValueError("scaling_factor, latents_std: must be above 0")

    def affine(self) -> tuple[Float[np.ndarray, "c"], Float[np.ndarray, "c"]]:
        """The shift that is subtracted from the latents of the encoder, and the scale that then multiplies them."""
        count = self.latent_channels
        shift = np.asarray(self.latents_mean or (0.0,) * count, np.float32) + np.float32(self.shift_factor)
        return shift, np.float32(self.scaling_factor) / np.asarray(self.latents_std or (1.0,) * count, np.float32)

    def scaling(self) -> str:
        """How latents are scaled, in words."""
        more = " of z by latents_mean and latents_std" if self.latents_mean or self.latents_std else ""
        return f"(z - {self.shift_factor:g}) * {self.scaling_factor:g}{more}"


class Statistics(nn.Module):
    """The running mean and variance of latents."""

    @nn.compact
    def __call__(self, channels: int) -> tuple[Float[Array, "c"], Float[Array, "c"]]:
        zeros, ones = nn.initializers.zeros, nn.initializers.ones
        return self.param("mean", zeros, (channels,)), self.param("variance", ones, (channels,))


class AutoencoderKl(nn.Module):
    """The autoencoder. Images are from -1 to 1, with sides that are multiples of the stride."""

    config: Any
    compute: Compute = DEFAULT

    def setup(self) -> None:
        config, compute = self.config, self.compute
        self.encoder, self.decoder = Encoder(config, compute), Decoder(config, compute)
        if config.use_quant_conv:
            self.quant_conv = convolve(2 * config.latent_channels, compute, side=1)
        if config.use_post_quant_conv:
            self.post_quant_conv = convolve(config.latent_channels, compute, side=1)
        if config.patch > 1:
            self.statistics = Statistics()

    def posterior(self, image: Float[Array, "b y x 3"]) -> tuple[Float[Array, "b v u c"], Float[Array, "b v u c"]]:
        """The mean and the log variance of the latents of images, not scaled."""
        moments = self.encoder(image)
        moments = self.quant_conv(moments) if self.config.use_quant_conv else moments
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_variance, -30.0, 20.0)

    def encode(self, image: Float[Array, "b y x 3"]) -> Float[Array, "b high wide d"]:
        """The mean of the latents of images, scaled to about unit variance."""
        mean = self.posterior(image)[0]
        shift, scale = self._affine()
        z = to_patches(mean, self.config.patch)
        return ((z.astype(FLOAT32) - shift) * scale).astype(mean.dtype)

    def decode(self, latents: Float[Array, "b high wide d"]) -> Float[Array, "b y x 3"]:
        """Images of latents as `encode` gives them."""
        shift, scale = self._affine()
        z = (latents.astype(FLOAT32) / scale + shift).astype(self.compute.dtype)
        z = from_patches(z, self.config.patch)
        z = self.post_quant_conv(z) if self.config.use_post_quant_conv else z
        return self.decoder(z)

    def _affine(self) -> tuple[Any, Any]:
        config = self.config
        if config.patch > 1:
            mean, variance = self.statistics(config.channels)
            shift, scale = mean, jax.lax.rsqrt(variance + jnp.float32(config.batch_norm_eps))
        else:
            shift, scale = config.affine()
        return shift[None, None, None], scale[None, None, None]


def _residual(tensor: str, leaf: str, shortcut: str) -> Table:
    return (
        *norm(f"{tensor}.norm1", f"{leaf}/norm_first"),
        *convolution(f"{tensor}.conv1", f"{leaf}/first"),
        *norm(f"{tensor}.norm2", f"{leaf}/norm_second"),
        *convolution(f"{tensor}.conv2", f"{leaf}/second"),
        *(convolution(f"{tensor}.{shortcut}", f"{leaf}/shortcut") if shortcut else ()),
    )


def _middle(config: Any, side: str) -> Table:
    original, leaf = config.original, f"{side}/middle"
    names = [f"{side}.mid.block_{k + 1}" if original else f"{side}.mid_block.resnets.{k}" for k in range(2)]
    rows = [row for k, name in enumerate(names) for row in _residual(name, f"{leaf}/block_{k}", "")]
    if config.mid_block_add_attention:
        inner = f"{side}.mid.attn_1" if original else f"{side}.mid_block.attentions.0"
        layers = ("q", "k", "v", "proj_out") if original else ("to_q", "to_k", "to_v", "to_out.0")
        rows += norm(f"{inner}.{'norm' if original else 'group_norm'}", f"{leaf}/norm")
        of_attention = attention([f"{inner}.{name}" for name in layers], f"{leaf}/attention")
        rows += map(_as_convolution, of_attention) if original else of_attention
    return tuple(rows)


def _as_convolution(row: Row) -> Row:
    """A row of a linear layer as that of the 1 x 1 convolution that it is in the original code."""
    if row.leaf.endswith("/bias"):
        return row
    return Row(row.tensor, row.leaf, row.layout.replace(" ->", " 1 1 ->"))


def _side(config: Any, side: str) -> Table:
    """The tensors of the encoder or the decoder. The original code numbers the decoder's levels from its end."""
    original, widths = config.original, config.widths(side)
    way, last = ("down" if side == "encoder" else "up"), ("nin_shortcut" if original else "conv_shortcut")
    rows: list[Row] = []
    for i, (before, width) in enumerate(zip(widths[:1] + widths, widths, strict=False)):
        number = len(widths) - 1 - i if side == "decoder" else i
        level = f"{side}.{way}.{number}" if original else f"{side}.{way}_blocks.{i}"
        for j in range(config.layers_per_block + (side == "decoder")):
            shortcut = last if j == 0 and before != width else ""
            name = f"{level}.{'block' if original else 'resnets'}.{j}"
            rows += _residual(name, f"{side}/level_{i}_{j}", shortcut)
        if i < len(widths) - 1:
            name = f"{level}.{way}sample.conv" if original else f"{level}.{way}samplers.0.conv"
            rows += convolution(name, f"{side}/resize_{i}")
    return (
        *convolution(f"{side}.conv_in", f"{side}/conv_in"),
        *rows,
        *_middle(config, side),
        *norm(f"{side}.{'norm_out' if original else 'conv_norm_out'}", f"{side}/norm_out"),
        *convolution(f"{side}.conv_out", f"{side}/conv_out"),
    )


def table(config: Any) -> Table:
    """The tensors of the parameters."""
    rows = (*_side(config, "encoder"), *_side(config, "decoder"))
    for name, present in (("quant_conv", config.use_quant_conv), ("post_quant_conv", config.use_post_quant_conv)):
        rows += convolution(name, name) if present else ()
    if config.patch > 1:
        rows += (Row("bn.running_mean", "statistics/mean", "c"), Row("bn.running_var", "statistics/variance", "c"))
    return rows


def parse(kind: type, values: Mapping[str, Any], where: str) -> Any:
    """The config of config.json, whose blocks must be those of convolutions alone."""
    config = read_config(kind, values, where)
    for name, block in BLOCKS.items():
        given = values.get(name, [block] * len(config.block_out_channels))
        if given != [block] * len(config.block_out_channels):
            raise UserError(
                f"{where}{name}: {printable(repr(given))[:80]} is not supported, only {block} for each of "
                "block_out_channels"
            )
    return config


def missing_config(folder: Path) -> str:
    """What config.json a folder lacks that holds an autoencoder in the original names; "": it holds something else."""
    for path in weights_in(folder):
        tensors = {re.sub(PREFIX, "", name): each.shape for name, each in read_weights(path).items()}
        pattern = re.compile(r"encoder\.down\.(\d+)\.block\.(\d+)\.conv1\.weight")
        blocks = {(int(m[1]), int(m[2])): shape for name, shape in tensors.items() if (m := pattern.fullmatch(name))}
        if not blocks or "decoder.conv_in.weight" not in tensors:
            continue
        latents, is_flux2 = tensors["decoder.conv_in.weight"][1], "bn.running_mean" in tensors
        settings = {
            "_class_name": "AutoencoderKLFlux2" if is_flux2 else "AutoencoderKL",
            "block_out_channels": [shape[0] for (_, j), shape in sorted(blocks.items()) if j == 0],
            "layers_per_block": max(j for _, j in blocks) + 1,
            "latent_channels": latents,
        }
        for name, place in (("quant_conv", "encoder"), ("post_quant_conv", "decoder")):
            settings[f"use_{name}"] = not tensors.keys().isdisjoint({f"{name}.weight", f"{place}.{name}.weight"})
        told = f"{folder}: has no {CONFIG}; for {printable(path.name)} add one: {json.dumps(settings)[:-1]}"
        known = SCALINGS.get(latents, "those it was published with")
        return f"{told}}}" if is_flux2 else f'{told}, "scaling_factor": S, "shift_factor": T}}; S and T: {known}'
    return ""


FAMILY = FamilySpec(
    "AutoencoderKL",
    KlConfig,
    AutoencoderKl,
    table,
    ("latents",),
    optional={"original": "encoder.mid.block_1.conv1.weight"},
    renames=(
        (PREFIX, ""),
        (r"^(encoder\.(?=quant_conv)|decoder\.(?=post_quant_conv))", ""),
        (r"(\.attentions\.0)\.query\.", r"\1.to_q."),  # as diffusers named them until 2023
        (r"(\.attentions\.0)\.key\.", r"\1.to_k."),
        (r"(\.attentions\.0)\.value\.", r"\1.to_v."),
        (r"(\.attentions\.0)\.proj_attn\.", r"\1.to_out.0."),
    ),
    ignored=(WHOLE,),
    parse=functools.partial(parse, KlConfig),
)
