"""DINOv2 (Oquab et al. 2023, arXiv:2304.07193), also with registers; `dinov2`, `dinov2_with_registers`."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
from jaxtyping import Array, Float

from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.norm import layer_norm
from mmjax.pretrained.layers import Block, BlockConfig, PatchEmbedding, Stack
from mmjax.pretrained.names import Row, Table, linear, norm
from mmjax.pretrained.spec import Encoded, FamilySpec
from mmjax.pretrained.vit import embedding, layers


@dataclass(frozen=True)
class Dinov2Config:
    """config.json, and whether the checkpoint has the embedding of masked patches, which only training uses."""

    FIXED: ClassVar = {"qkv_bias": True, "num_channels": 3}

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    mlp_ratio: float = 4.0
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    image_size: int = 224
    patch_size: int = 14
    num_channels: int = 3
    use_swiglu_ffn: bool = False
    mask_token: bool = True

    registers: ClassVar[int] = 0

    @property
    def mlp_width(self) -> int:
        """Hidden units of the MLP; with SwiGLU two thirds, as a multiple of 8."""
        units = int(self.hidden_size * self.mlp_ratio)
        return (int(units * 2 / 3) + 7) // 8 * 8 if self.use_swiglu_ffn else units


@dataclass(frozen=True)
class RegistersConfig(Dinov2Config):
    """config.json of the variant with registers."""

    patch_size: int = 16
    num_register_tokens: int = 4

    @property
    def registers(self) -> int:  # type: ignore[override]
        return self.num_register_tokens


class Dinov2(nn.Module):
    """A vision transformer. Its pooled feature is that of the class token; registers follow it among the tokens."""

    config: Dinov2Config
    compute: Compute = DEFAULT

    @nn.compact
    def encode_image(self, image: Float[Array, "b y x c"]) -> Encoded:
        """Encodes images."""
        config, compute = self.config, self.compute
        embed = PatchEmbedding(
            config.hidden_size,
            (config.image_size, config.patch_size),
            registers=config.registers,
            antialias=config.registers > 0,  # as they were trained
            compute=compute,
            name="embedding",
        )
        if config.mask_token:
            self.param("mask_token", nn.initializers.zeros, (config.hidden_size,))
        block = BlockConfig(
            config.num_attention_heads,
            config.mlp_width,
            "silu" if config.use_swiglu_ffn else config.hidden_act,
            config.layer_norm_eps,
            gated=config.use_swiglu_ffn,
            layer_scale=True,
        )
        x = Stack(config.num_hidden_layers, Block, block, compute, name="stack")(embed(image))
        x = layer_norm(x, "norm", config.layer_norm_eps)
        return Encoded(x, x[:, 0])


def _mlp(config: Dinov2Config) -> Table:
    mlp, block = "encoder.layer.{}.mlp", "stack/block"
    if not config.use_swiglu_ffn:
        return (*linear(f"{mlp}.fc1", f"{block}/mlp_in"), *linear(f"{mlp}.fc2", f"{block}/mlp_out"))
    fused = [
        dataclasses.replace(row, part=(i, 2))
        for i, name in enumerate(("gate", "mlp_in"))
        for row in linear(f"{mlp}.weights_in", f"{block}/{name}")
    ]
    return (*fused, *linear(f"{mlp}.weights_out", f"{block}/mlp_out"))


def table(config: Dinov2Config) -> Table:
    """The tensors of the parameters."""
    layer, block = "encoder.layer.{}", "stack/block"
    return (
        *embedding(),
        *((Row("embeddings.register_tokens", "embedding/registers", "1 r d -> r d"),) if config.registers else ()),
        *((Row("embeddings.mask_token", "mask_token", "1 d -> d"),) if config.mask_token else ()),
        *layers(),
        Row(f"{layer}.layer_scale1.lambda1", f"{block}/layer_scale_self", "d"),
        Row(f"{layer}.layer_scale2.lambda1", f"{block}/layer_scale_mlp", "d"),
        *norm(f"{layer}.norm1", f"{block}/norm_self"),
        *norm(f"{layer}.norm2", f"{block}/norm_mlp"),
        *_mlp(config),
        *norm("layernorm", "norm"),
    )


FAMILY = FamilySpec(
    "DINOv2",
    Dinov2Config,
    Dinov2,
    table,
    ("image",),
    optional={"mask_token": "embeddings.mask_token"},
    renames=((r"^dinov2(_with_registers)?\.", ""),),
    architecture=lambda config: "Dinov2WithRegistersModel" if config.registers else "Dinov2Model",
    ignored=(r"classifier\..*",),
)
REGISTERS = dataclasses.replace(FAMILY, name="DINOv2 with registers", config=RegistersConfig)
