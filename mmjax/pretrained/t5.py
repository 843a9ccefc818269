"""Encoders of T5 (Raffel et al. 2019, arXiv:1910.10683), mT5 and umT5 (arXiv:2304.09151); `t5`, `mt5`, `umt5`."""

import functools
from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmjax.nn.attention import dot_product_attention
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.dense import dot_general
from mmjax.pretrained.layers import Stack, gated_mlp
from mmjax.pretrained.names import Row, Table, attention, linear, norm
from mmjax.pretrained.spec import Encoded, FamilySpec
from mmjax.types import FLOAT32

# Activation and gating by `feed_forward_proj`.
FEED_FORWARD = {
    "relu": ("relu", False),
    "gelu": ("gelu", False),
    "gated-gelu": ("gelu_new", True),
    "gated-silu": ("silu", True),
}


@dataclass(frozen=True)
class T5Config:
    """config.json. `bias_per_layer` is no field of it: each block has its own relative position bias, as in umT5."""

    CHOICES: ClassVar = {"feed_forward_proj": FEED_FORWARD}
    bias_per_layer: ClassVar[bool] = False

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str = "relu"

    @property
    def hidden_size(self) -> int:
        """Width of the features, as other families call it."""
        return self.d_model

    def __post_init__(self) -> None:
        number, farthest = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if number < 4 or farthest <= number // 4:
            raise ValueError(
                f"relative_attention_num_buckets: {number} with relative_attention_max_distance {farthest}: needs at "
                "least 4, and a distance above a quarter of them"
            )


@dataclass(frozen=True)
class Mt5Config(T5Config):
    """config.json of mT5."""

    vocab_size: int = 250112
    d_ff: int = 1024
    num_layers: int = 8
    num_heads: int = 6
    feed_forward_proj: str = "gated-gelu"


@dataclass(frozen=True)
class Umt5Config(Mt5Config):
    """config.json of umT5."""

    bias_per_layer: ClassVar[bool] = True


def buckets(length: int, number: int, farthest: int) -> Int[np.ndarray, "t s"]:
    """The bucket of the distance of each key from each query (section 2.1): a half of them for keys to the right.

    Of each half, a half is for one distance each; the others grow logarithmically up to the farthest distance.
    """
    distance = np.arange(length)[None] - np.arange(length)[:, None]
    half, exact = number // 2, number // 4
    far = np.log(np.maximum(np.abs(distance), 1).astype(np.float32) / np.float32(exact))
    far = exact + (far / np.float32(np.log(farthest / exact)) * np.float32(half - exact)).astype(np.int32)
    near = np.abs(distance)
    return np.where(distance > 0, half, 0) + np.where(near < exact, near, np.minimum(far, half - 1))


class Block(nn.Module):
    """Self-attention and an MLP without biases, each after an RMS normalization (Zhang & Sennrich 2019)."""

    config: T5Config
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], mask: Bool[Array, "b 1 1 t"], bias: Float[Array, "1 h t t"] | None
    ) -> Float[Array, "b t d"]:
        """Applies the block; `bias` is that of all blocks, if they share it."""
        config, compute = self.config, self.compute
        x = compute.partitioner.with_sharding_constraint(x)
        if bias is None:
            bias = position_bias(self, config, x.shape[1])
        x += Attention(config, compute, name="self_attention")(_norm(x, "norm_self", config), mask, bias)
        activation, gated = FEED_FORWARD[config.feed_forward_proj]
        return x + gated_mlp(_norm(x, "norm_mlp", config), config.d_ff, activation, gated, compute, bias=False)


class Attention(nn.Module):
    """Multi-head attention without biases and without scaling by the width of a head."""

    config: T5Config
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t d"], mask: Bool[Array, "b 1 1 t"], bias: Float[Array, "1 h t t"]
    ) -> Float[Array, "b t d"]:
        config, compute = self.config, self.compute
        dense = functools.partial(
            nn.DenseGeneral, use_bias=False, dtype=compute.dtype, dot_general=dot_general(compute)
        )
        q, k, v = (dense((config.num_heads, config.d_kv), name=name)(x) for name in ("q", "k", "v"))
        attended = dot_product_attention(q, k, v, mask, compute.attention, compute.partitioner, bias, scale=1.0)
        return dense(x.shape[-1], axis=(-2, -1), name="out")(attended)


def position_bias(module: nn.Module, config: T5Config, length: int) -> Float[Array, "1 h t t"]:
    """The bias of attention logits by relative position, a parameter of the module."""
    number = config.relative_attention_num_buckets
    bias = module.param("relative_bias", nn.initializers.normal(0.02), (number, config.num_heads))
    return jnp.moveaxis(bias[buckets(length, number, config.relative_attention_max_distance)], -1, 0)[None]


def _norm(x: Float[Array, "b t d"], name: str, config: T5Config) -> Float[Array, "b t d"]:
    return nn.RMSNorm(config.layer_norm_epsilon, dtype=FLOAT32, name=name)(x.astype(FLOAT32)).astype(x.dtype)


class T5Encoder(nn.Module):
    """A text encoder. Its pooled feature is the mean over the tokens."""

    config: T5Config
    compute: Compute = DEFAULT

    @nn.compact
    def encode_text(self, ids: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> Encoded:
        """Encodes token ids; `mask` is False on padding."""
        config, compute = self.config, self.compute
        words = self.param("words", nn.initializers.normal(1.0), (config.vocab_size, config.d_model))
        bias = None if config.bias_per_layer else position_bias(self, config, ids.shape[1])
        x = words[ids].astype(compute.dtype)
        x = Stack(config.num_layers, Block, config, compute, name="stack")(x, mask[:, None, None], bias)
        x = _norm(x, "norm", config)
        weights = mask.astype(x.dtype)[..., None]
        return Encoded(x, jnp.sum(x * weights, axis=1) / jnp.maximum(jnp.sum(weights, axis=1), 1))


def table(config: T5Config) -> Table:
    """The tensors of the parameters."""
    layer, block = "encoder.block.{}", "stack/block"
    inner, mlp = f"{layer}.layer.0.SelfAttention", f"{layer}.layer.1.DenseReluDense"
    _, gated = FEED_FORWARD[config.feed_forward_proj]
    bias = "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight"
    units = {"wi_0": "gate", "wi_1": "mlp_in"} if gated else {"wi": "mlp_in"}
    return (
        Row("shared.weight", "words", "v d"),
        Row(bias, f"{block}/relative_bias", "n h")
        if config.bias_per_layer
        else Row(bias.format(0), "relative_bias", "n h"),
        *attention([f"{inner}.{name}" for name in "qkvo"], f"{block}/self_attention", bias=False),
        *norm(f"{layer}.layer.0.layer_norm", f"{block}/norm_self", bias=False),
        *norm(f"{layer}.layer.1.layer_norm", f"{block}/norm_mlp", bias=False),
        *(row for name, leaf in units.items() for row in linear(f"{mlp}.{name}", f"{block}/{leaf}", bias=False)),
        *linear(f"{mlp}.wo", f"{block}/mlp_out", bias=False),
        *norm("encoder.final_layer_norm", "norm", bias=False),
    )


def _family(name: str, config: type) -> FamilySpec:
    return FamilySpec(
        name,
        config,
        T5Encoder,
        table,
        ("text",),
        ignored=(r"decoder\..*", r"lm_head\..*"),
        architecture=lambda config: f"{name.upper()}EncoderModel",
        tied=(("encoder.embed_tokens.weight", "shared.weight"),),
    )


T5, MT5, UMT5 = _family("T5", T5Config), _family("mT5", Mt5Config), _family("umT5", Umt5Config)
