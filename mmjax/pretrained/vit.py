"""The vision transformer (Dosovitskiy et al. 2020, arXiv:2010.11929), with or without classifier; `vit`."""

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.dense import dense
from mmjax.nn.norm import layer_norm
from mmjax.pretrained.clip import block_config
from mmjax.pretrained.layers import Block, PatchEmbedding, Stack
from mmjax.pretrained.names import Row, Table, attention, convolution, linear, norm
from mmjax.pretrained.spec import Encoded, FamilySpec


@dataclass(frozen=True)
class VitConfig:
    """config.json, and whether the checkpoint has the dense layer on the class token and a classifier.

    `id2label` are the names of the classes; pooler_output_size 0: hidden_size.
    """

    FIXED: ClassVar = {"qkv_bias": True, "pooler_act": "tanh", "num_channels": 3}

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    image_size: int = 224
    patch_size: int = 16
    num_channels: int = 3
    id2label: tuple[str, ...] = ("LABEL_0", "LABEL_1")
    pooler_output_size: int = 0
    pooler: bool = True
    classifier: bool = True


class Vit(nn.Module):
    """A vision transformer. Its pooled feature is that of the class token."""

    config: VitConfig
    compute: Compute = DEFAULT

    @nn.compact
    def encode_image(self, image: Float[Array, "b y x c"]) -> Encoded:
        """Encodes images."""
        config, compute = self.config, self.compute
        size = (config.image_size, config.patch_size)
        x = PatchEmbedding(config.hidden_size, size, compute=compute, name="embedding")(image)
        x = Stack(config.num_hidden_layers, Block, block_config(config), compute, name="stack")(x)
        x = layer_norm(x, "norm", config.layer_norm_eps)
        pooled = x[:, 0]
        if config.classifier:
            self.sow("classes", "logits", dense(len(config.id2label), compute, "classifier")(pooled))
        if config.pooler:
            pooled = jnp.tanh(dense(config.pooler_output_size or config.hidden_size, compute, "pooler")(pooled))
        return Encoded(x, pooled)


def layers() -> Table:
    """The tensors of attention in the blocks, as in DINOv2."""
    layer = "encoder.layer.{}.attention"
    inner = [f"{layer}.attention.{name}" for name in ("query", "key", "value")]
    return attention([*inner, f"{layer}.output.dense"], "stack/block/self_attention")


def embedding(token: str = "embeddings.cls_token") -> Table:
    """The tensors of the embedding of patches, as in DINOv2."""
    return (
        Row(token, "embedding/class_token", "1 1 d -> d"),
        Row("embeddings.position_embeddings", "embedding/positions", "1 n d -> n d"),
        *convolution("embeddings.patch_embeddings.projection", "embedding/patches"),
    )


def table(config: VitConfig) -> Table:
    """The tensors of the parameters."""
    layer, block = "encoder.layer.{}", "stack/block"
    return (
        *embedding(),
        *layers(),
        *norm(f"{layer}.layernorm_before", f"{block}/norm_self"),
        *norm(f"{layer}.layernorm_after", f"{block}/norm_mlp"),
        *linear(f"{layer}.intermediate.dense", f"{block}/mlp_in"),
        *linear(f"{layer}.output.dense", f"{block}/mlp_out"),
        *norm("layernorm", "norm"),
        *(linear("pooler.dense", "pooler") if config.pooler else ()),
        *(linear("classifier", "classifier") if config.classifier else ()),
    )


FAMILY = FamilySpec(
    "ViT",
    VitConfig,
    Vit,
    table,
    ("image",),
    optional={"pooler": "pooler.dense.weight", "classifier": "classifier.weight"},
    architecture=lambda config: "ViTForImageClassification" if config.classifier else "ViTModel",
    renames=((r"^vit\.", ""),),
)
