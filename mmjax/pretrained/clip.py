"""CLIP (Radford et al. 2021, arXiv:2103.00020): both towers, or one; `clip` in transformers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.dense import dense
from mmjax.nn.norm import layer_norm
from mmjax.pretrained.layers import Block, BlockConfig, PatchEmbedding, Stack
from mmjax.pretrained.names import Row, Table, attention, convolution, linear, norm
from mmjax.pretrained.spec import Encoded, FamilySpec, read_config
from mmjax.types import UserError

OLD_END = 2  # eos_token_id in config.json files of before 2023, which is wrong: the end of text is the largest id


@dataclass(frozen=True)
class TextConfig:
    """`text_config`."""

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    eos_token_id: int = 49407


@dataclass(frozen=True)
class VisionConfig:
    """`vision_config`."""

    FIXED: ClassVar = {"num_channels": 3}

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: int = 224
    patch_size: int = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


@dataclass(frozen=True)
class ClipConfig:
    """config.json. A single tower is one of `towers`, and its projection may be absent."""

    text_config: TextConfig = TextConfig()
    vision_config: VisionConfig = VisionConfig()
    projection_dim: int = 512
    text_projection: bool = True
    visual_projection: bool = True
    towers: tuple[str, ...] = ("text", "vision")


@dataclass(frozen=True)
class Projection:
    """What config.json of a single tower says of its projection."""

    projection_dim: int = 512


def block_config(config: Any) -> BlockConfig:
    """The blocks of a tower."""
    return BlockConfig(config.num_attention_heads, config.intermediate_size, config.hidden_act, config.layer_norm_eps)


class TextEmbedding(nn.Module):
    """Embeds tokens and adds learned positions."""

    config: Any
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, ids: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        config, normal = self.config, nn.initializers.normal(0.02)
        words = self.param("words", normal, (config.vocab_size, config.hidden_size))
        positions = self.param("positions", normal, (config.max_position_embeddings, config.hidden_size))
        return (words[ids] + positions[None, : ids.shape[1]]).astype(self.compute.dtype)


class TextTower(nn.Module):
    """A causal transformer. The pooled feature is that of the first end token."""

    config: TextConfig
    projection: int
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, ids: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> Encoded:
        config, compute = self.config, self.compute
        x = TextEmbedding(config, compute, name="embedding")(ids)
        order = np.arange(ids.shape[1])
        causal = jnp.asarray(order[:, None] >= order[None])[None, None]
        x = Stack(config.num_hidden_layers, Block, block_config(config), compute, name="stack")(
            x, causal & mask[:, None, None]
        )
        x = layer_norm(x, "norm", config.layer_norm_eps)
        is_end = ids if config.eos_token_id == OLD_END else ids == config.eos_token_id
        pooled = jnp.take_along_axis(x, jnp.argmax(is_end, axis=1)[:, None, None], axis=1)[:, 0]
        return Encoded(
            x, dense(self.projection, compute, "projection", bias=False)(pooled) if self.projection else pooled
        )


class VisionTower(nn.Module):
    """A vision transformer. The pooled feature is that of the class token, which alone is normalized at the end."""

    config: VisionConfig
    projection: int
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, image: Float[Array, "b y x c"]) -> Encoded:
        config, compute = self.config, self.compute
        size = (config.image_size, config.patch_size)
        x = PatchEmbedding(config.hidden_size, size, bias=False, compute=compute, name="embedding")(image)
        x = layer_norm(x, "norm_first", config.layer_norm_eps)
        x = Stack(config.num_hidden_layers, Block, block_config(config), compute, name="stack")(x)
        pooled = layer_norm(x[:, 0], "norm", config.layer_norm_eps)
        return Encoded(
            x, dense(self.projection, compute, "projection", bias=False)(pooled) if self.projection else pooled
        )


class Clip(nn.Module):
    """Both towers, or one of them, and the scale of their similarity."""

    config: ClipConfig
    compute: Compute = DEFAULT

    def setup(self) -> None:
        config = self.config
        if "text" in config.towers:
            self.text = TextTower(config.text_config, config.text_projection * config.projection_dim, self.compute)
        if "vision" in config.towers:
            self.vision = VisionTower(
                config.vision_config, config.visual_projection * config.projection_dim, self.compute
            )
        if len(config.towers) == 2:
            self.logit_scale = self.param("logit_scale", nn.initializers.constant(2.6592), ())

    def encode_text(self, ids: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> Encoded:
        """Encodes token ids; `mask` is False on padding."""
        return self.text(ids, mask)

    def encode_image(self, image: Float[Array, "b y x c"]) -> Encoded:
        """Encodes images."""
        return self.vision(image)

    def logits(self, cosines: Float[Array, "b n"]) -> Float[Array, "b n"]:
        """Logits of texts for images, by the cosines of their embeddings."""
        return cosines * jnp.exp(self.logit_scale)


def layers(tensor: str, leaf: str) -> Table:
    """The blocks of a tower."""
    layer, block = f"{tensor}.encoder.layers.{{}}", f"{leaf}/stack/block"
    inner = [f"{layer}.self_attn.{name}_proj" for name in ("q", "k", "v", "out")]
    return (
        *attention(inner, f"{block}/self_attention"),
        *norm(f"{layer}.layer_norm1", f"{block}/norm_self"),
        *norm(f"{layer}.layer_norm2", f"{block}/norm_mlp"),
        *linear(f"{layer}.mlp.fc1", f"{block}/mlp_in"),
        *linear(f"{layer}.mlp.fc2", f"{block}/mlp_out"),
    )


def text_table() -> Table:
    """The tensors of a text tower, without its projection."""
    return (
        Row("text_model.embeddings.token_embedding.weight", "text/embedding/words", "v d"),
        Row("text_model.embeddings.position_embedding.weight", "text/embedding/positions", "n d"),
        *layers("text_model", "text"),
        *norm("text_model.final_layer_norm", "text/norm"),
    )


def table(config: ClipConfig) -> Table:
    """The tensors of the parameters."""
    rows: Table = ()
    if "text" in config.towers:
        rows += text_table()
        rows += linear("text_projection", "text/projection", bias=False) * config.text_projection
    if "vision" in config.towers:
        rows += (
            Row("vision_model.embeddings.class_embedding", "vision/embedding/class_token", "d"),
            Row("vision_model.embeddings.position_embedding.weight", "vision/embedding/positions", "n d"),
            *convolution("vision_model.embeddings.patch_embedding", "vision/embedding/patches", bias=False),
            *norm("vision_model.pre_layrnorm", "vision/norm_first"),
            *layers("vision_model", "vision"),
            *norm("vision_model.post_layernorm", "vision/norm"),
            *linear("visual_projection", "vision/projection", bias=False) * config.visual_projection,
        )
    return rows + (Row("logit_scale", "logit_scale", ""),) * (len(config.towers) == 2)


def _text(values: Mapping[str, Any], where: str) -> ClipConfig:
    config, width = read_config(TextConfig, values, where), read_config(Projection, values, where).projection_dim
    return ClipConfig(config, projection_dim=width, towers=("text",))


def _vision(values: Mapping[str, Any], where: str) -> ClipConfig:
    config, width = read_config(VisionConfig, values, where), read_config(Projection, values, where).projection_dim
    return ClipConfig(vision_config=config, projection_dim=width, towers=("vision",))


def _both(values: Mapping[str, Any], where: str) -> ClipConfig:
    for section in ("text_config", "vision_config"):  # of old files, where the second counts
        given, old = values.get(section), values.get(f"{section}_dict")
        if isinstance(given, dict) and isinstance(old, dict):
            differing = [name for name in old if name in given and old[name] != given[name]]
            if differing:
                raise UserError(
                    f"{where}{section}_dict: {differing[0]} differs from that of {section}; remove one of them"
                )
    return read_config(ClipConfig, values, where)


IGNORED = (r".*\.position_ids",)
FAMILY = FamilySpec(
    "CLIP",
    ClipConfig,
    Clip,
    table,
    ("text", "image"),
    ignored=IGNORED,
    architecture=lambda config: "CLIPModel",
    padded=True,
    parse=_both,
)
TEXT = FamilySpec(
    "CLIP's text tower",
    ClipConfig,
    Clip,
    table,
    ("text",),
    optional={"text_projection": "text_projection.weight"},
    renames=((r"^(?=embeddings|encoder|final_layer_norm)", "text_model."),),
    ignored=IGNORED,
    architecture=lambda config: f"CLIPTextModel{'WithProjection' * config.text_projection}",
    padded=True,
    parse=_text,
)
VISION = FamilySpec(
    "CLIP's vision tower",
    ClipConfig,
    Clip,
    table,
    ("image",),
    optional={"visual_projection": "visual_projection.weight"},
    renames=((r"^(?=embeddings|encoder|pre_layrnorm|post_layernorm)", "vision_model."),),
    ignored=IGNORED,
    architecture=lambda config: f"CLIPVisionModel{'WithProjection' * config.visual_projection}",
    parse=_vision,
)
