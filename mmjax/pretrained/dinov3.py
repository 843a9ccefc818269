"""DINOv3 (Siméoni et al. 2025, arXiv:2508.10104), vision transformers; `dinov3_vit`."""

import math
from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.norm import layer_norm
from mmjax.pretrained.layers import Block, BlockConfig, Stack
from mmjax.pretrained.names import Row, Table, attention, convolution, linear, norm
from mmjax.pretrained.spec import Encoded, FamilySpec

BIASES = {"q": "query_bias", "k": "key_bias", "v": "value_bias", "out": "proj_bias"}


@dataclass(frozen=True)
class Dinov3Config:
    """config.json, and whether the checkpoint has the embedding of masked patches, which only training uses."""

    FIXED: ClassVar = {"num_channels": 3}

    hidden_size: int = 384
    intermediate_size: int = 1536
    num_hidden_layers: int = 12
    num_attention_heads: int = 6
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-5
    rope_theta: float = 100.0
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    num_register_tokens: int = 0
    query_bias: bool = True
    key_bias: bool = False
    value_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True
    use_gated_mlp: bool = False
    mask_token: bool = True

    def __post_init__(self) -> None:
        if self.hidden_size % (4 * self.num_attention_heads):
            raise ValueError(
                f"num_attention_heads: {self.num_attention_heads} heads must each have a multiple of 4 of hidden_size, "
                f"{self.hidden_size}"
            )

    @property
    def without_bias(self) -> tuple[str, ...]:
        """The projections of attention without a bias."""
        return tuple(name for name, field in BIASES.items() if not getattr(self, field))


def angles(sides: tuple[int, int], config: Dinov3Config) -> Float[np.ndarray, "t a"]:
    """RoPE angles of the class token and the registers, which are 0, and of patches in row-major order, in radians.

    The centers of the patches are from -1 to 1 on each axis, which rotates half of the feature pairs, pair i of n of
    them by 2 pi x / theta^(i / n) (section 3.2).
    """
    pairs = config.hidden_size // config.num_attention_heads // 4
    frequency = 2 * math.pi * config.rope_theta ** (-np.arange(pairs) / pairs)
    centers = (2 * (np.arange(side) + 0.5) / side - 1 for side in sides)
    places = np.stack(np.meshgrid(*centers, indexing="ij"), axis=-1).reshape(-1, 2)
    of_patches = (places[..., None] * frequency).reshape(len(places), 2 * pairs)
    first = np.zeros((1 + config.num_register_tokens, 2 * pairs))
    return np.concatenate([first, of_patches]).astype(np.float32)


class Embedding(nn.Module):
    """Embeds patches, after a class token and registers."""

    config: Dinov3Config
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, image: Float[Array, "b y x c"]) -> Float[Array, "b n d"]:
        config, normal = self.config, nn.initializers.normal(0.02)
        patch, width, b = (config.patch_size,) * 2, config.hidden_size, image.shape[0]
        x = nn.Conv(width, patch, patch, "VALID", dtype=self.compute.dtype, name="patches")(image)
        first = [self.param("class_token", normal, (width,))[None]]
        if config.num_register_tokens:
            first.append(self.param("registers", normal, (config.num_register_tokens, width)))
        tokens = (jnp.broadcast_to(token.astype(x.dtype)[None], (b, *token.shape)) for token in first)
        return jnp.concatenate([*tokens, x.reshape(b, -1, width)], axis=1)


class Dinov3(nn.Module):
    """A vision transformer. Its pooled feature is that of the class token; registers follow it among the tokens."""

    config: Dinov3Config
    compute: Compute = DEFAULT

    @nn.compact
    def encode_image(self, image: Float[Array, "b y x c"]) -> Encoded:
        """Encodes images of any size, cut to whole patches."""
        config, compute = self.config, self.compute
        if config.mask_token:
            self.param("mask_token", nn.initializers.zeros, (config.hidden_size,))
        block = BlockConfig(
            config.num_attention_heads,
            config.intermediate_size,
            config.hidden_act,
            config.layer_norm_eps,
            gated=config.use_gated_mlp,
            layer_scale=True,
            without_bias=config.without_bias,
            mlp_bias=config.mlp_bias,
        )
        sides = (image.shape[1] // config.patch_size, image.shape[2] // config.patch_size)
        x = Embedding(config, compute, name="embedding")(image)
        x = Stack(config.num_hidden_layers, Block, block, compute, name="stack")(x, None, angles(sides, config))
        x = layer_norm(x, "norm", config.layer_norm_eps)
        return Encoded(x, x[:, 0])


def table(config: Dinov3Config) -> Table:
    """The tensors of the parameters."""
    layer, block = "layer.{}", "stack/block"
    inner = attention([f"{layer}.attention.{name}_proj" for name in "qkvo"], f"{block}/self_attention")
    absent = {f"{block}/self_attention/{name}/bias" for name in config.without_bias}
    mlp = {"up_proj": "mlp_in", "down_proj": "mlp_out"} | ({"gate_proj": "gate"} if config.use_gated_mlp else {})
    return (
        Row("embeddings.cls_token", "embedding/class_token", "1 1 d -> d"),
        *convolution("embeddings.patch_embeddings", "embedding/patches"),
        *(
            (Row("embeddings.register_tokens", "embedding/registers", "1 r d -> r d"),)
            if config.num_register_tokens
            else ()
        ),
        *((Row("embeddings.mask_token", "mask_token", "1 1 d -> d"),) if config.mask_token else ()),
        *(row for row in inner if row.leaf not in absent),
        *(
            row
            for name, leaf in mlp.items()
            for row in linear(f"{layer}.mlp.{name}", f"{block}/{leaf}", config.mlp_bias)
        ),
        Row(f"{layer}.layer_scale1.lambda1", f"{block}/layer_scale_self", "d"),
        Row(f"{layer}.layer_scale2.lambda1", f"{block}/layer_scale_mlp", "d"),
        *norm(f"{layer}.norm1", f"{block}/norm_self"),
        *norm(f"{layer}.norm2", f"{block}/norm_mlp"),
        *norm("norm", "norm"),
    )


FAMILY = FamilySpec(
    "DINOv3",
    Dinov3Config,
    Dinov3,
    table,
    ("image",),
    optional={"mask_token": "embeddings.mask_token"},
    renames=((r"^model\.(?=layer\.)", ""),),  # as transformers 5 calls them in memory
)
