"""SigLIP (Zhai et al. 2023, arXiv:2303.15343) and SigLIP 2 of a fixed size (arXiv:2502.14786); `siglip`.

In the names of transformers, or as an npz file of big_vision.
"""

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmjax.nn.attention import MultiHeadAttention
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.dense import dense
from mmjax.nn.norm import layer_norm
from mmjax.pretrained import siglip_big_vision
from mmjax.pretrained.clip import IGNORED, TextEmbedding, block_config, layers, text_table
from mmjax.pretrained.layers import Block, PatchEmbedding, Stack, gated_mlp
from mmjax.pretrained.names import Row, Table, convolution, linear, norm
from mmjax.pretrained.spec import Encoded, FamilySpec


@dataclass(frozen=True)
class TextConfig:
    """`text_config`; `projection_size` 0: hidden_size."""

    vocab_size: int = 32000
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 64
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    projection_size: int = 0


@dataclass(frozen=True)
class VisionConfig:
    """`vision_config`."""

    FIXED: ClassVar = {"vision_use_head": True, "num_channels": 3}

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 16
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6


@dataclass(frozen=True)
class SiglipConfig:
    """config.json, whether the checkpoint is one of big_vision, and whether its layers are stacked."""

    text_config: TextConfig = TextConfig()
    vision_config: VisionConfig = VisionConfig()
    big_vision: bool = False
    stacked_text: bool = False
    stacked_vision: bool = False


class TextTower(nn.Module):
    """A transformer. The pooled feature is that of the last token; padding takes part, as in training."""

    config: TextConfig
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, ids: Int[Array, "b t"]) -> Encoded:
        config, compute = self.config, self.compute
        x = TextEmbedding(config, compute, name="embedding")(ids)
        x = Stack(config.num_hidden_layers, Block, block_config(config), compute, name="stack")(x)
        x = layer_norm(x, "norm", config.layer_norm_eps)
        return Encoded(x, dense(config.projection_size or config.hidden_size, compute, "projection")(x[:, -1]))


class VisionTower(nn.Module):
    """A vision transformer without a class token. The pooled feature is that of attention by a learned query."""

    config: VisionConfig
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, image: Float[Array, "b y x c"]) -> Encoded:
        config, compute = self.config, self.compute
        size = (config.image_size, config.patch_size)
        embedding = PatchEmbedding(config.hidden_size, size, class_token=False, compute=compute, name="embedding")
        stack = Stack(config.num_hidden_layers, Block, block_config(config), compute, name="stack")
        x = layer_norm(stack(embedding(image)), "norm", config.layer_norm_eps)
        return Encoded(x, Head(config, compute, name="head")(x))


class Head(nn.Module):
    """Attention pooling (Zhai et al. 2022, arXiv:2106.04560)."""

    config: VisionConfig
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        config, (b, _, d) = self.config, x.shape
        query = self.param("query", nn.initializers.normal(0.02), (d,)).astype(x.dtype)
        attention = MultiHeadAttention(config.num_attention_heads, self.compute, name="attention")
        x, _ = attention(jnp.broadcast_to(query[None, None], (b, 1, d)), x)
        y = layer_norm(x, "norm", config.layer_norm_eps)
        return (x + gated_mlp(y, config.intermediate_size, config.hidden_act, False, self.compute))[:, 0]


class Siglip(nn.Module):
    """Both towers, and the scale and bias of their similarity."""

    config: SiglipConfig
    compute: Compute = DEFAULT

    def setup(self) -> None:
        self.text = TextTower(self.config.text_config, self.compute)
        self.vision = VisionTower(self.config.vision_config, self.compute)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(2.3026), ())
        self.logit_bias = self.param("logit_bias", nn.initializers.constant(-10.0), ())

    def encode_text(self, ids: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> Encoded:
        """Encodes token ids, padded to the length that the model was trained with; the mask is not used."""
        return self.text(ids)

    def encode_image(self, image: Float[Array, "b y x c"]) -> Encoded:
        """Encodes images."""
        return self.vision(image)

    def logits(self, cosines: Float[Array, "b n"]) -> Float[Array, "b n"]:
        """Logits of texts for images, each against all others, by the cosines of their embeddings."""
        return cosines * jnp.exp(self.logit_scale) + self.logit_bias


def _head() -> Table:
    tensor, leaf = "vision_model.head", "vision/head"
    rows = []
    for i, name in enumerate("qkv"):
        inner = f"{leaf}/attention/{name}"
        rows.append(Row(f"{tensor}.attention.in_proj_weight", f"{inner}/kernel", "(h k) d -> d h k", (i, 3)))
        rows.append(Row(f"{tensor}.attention.in_proj_bias", f"{inner}/bias", "(h k) -> h k", (i, 3)))
    return (
        Row(f"{tensor}.probe", f"{leaf}/query", "1 1 d -> d"),
        *rows,
        Row(f"{tensor}.attention.out_proj.weight", f"{leaf}/attention/out/kernel", "d (h k) -> h k d"),
        Row(f"{tensor}.attention.out_proj.bias", f"{leaf}/attention/out/bias", "d"),
        *norm(f"{tensor}.layernorm", f"{leaf}/norm"),
        *linear(f"{tensor}.mlp.fc1", f"{leaf}/mlp_in"),
        *linear(f"{tensor}.mlp.fc2", f"{leaf}/mlp_out"),
    )


def table(config: SiglipConfig) -> Table:
    """The tensors of the parameters."""
    if config.big_vision:
        return siglip_big_vision.table(config)
    return (
        *text_table(),
        *linear("text_model.head", "text/projection"),
        Row("vision_model.embeddings.position_embedding.weight", "vision/embedding/positions", "n d"),
        *convolution("vision_model.embeddings.patch_embedding", "vision/embedding/patches"),
        *layers("vision_model", "vision"),
        *norm("vision_model.post_layernorm", "vision/norm"),
        *_head(),
        Row("logit_scale", "logit_scale", "1"),
        Row("logit_bias", "logit_bias", "1"),
    )


_STACKED = "encoderblock/LayerNorm_0/scale"
FAMILY = FamilySpec(
    "SigLIP",
    SiglipConfig,
    Siglip,
    table,
    ("text", "image"),
    optional={
        "big_vision": "params/t",
        "stacked_text": f"{siglip_big_vision.TOWERS['text']}/{_STACKED}",
        "stacked_vision": f"{siglip_big_vision.TOWERS['vision']}/{_STACKED}",
    },
    ignored=IGNORED,
    architecture=lambda config: "SiglipModel",
    padded=True,
)
