"""Text encoder: a transformer over text tokens, and a projection of the features of a frozen one."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float16, Int

from mmjax.config import ComponentConfig, Config
from mmjax.models import pretrained_encoder
from mmjax.models.rules import STACK, Rules
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.dense import dense
from mmjax.nn.norm import layer_norm
from mmjax.nn.positions import rope_angles, sincos_1d
from mmjax.nn.transformer import Stack
from mmjax.types import FLOAT32, UserError

TEXT_ENCODER = "text_encoder"  # a component
# Sharding rules of modules named "text".
RULES: Rules = (*STACK, (r"text/embedding", ("model", "fsdp")))
FROZEN_RULES: Rules = ((r"text/project/kernel", (None, "fsdp")), (r"text/null_embedding", ("fsdp",)))


@dataclass(frozen=True)
class TextEncoderSettings:
    """Sizes of a text encoder."""

    vocabulary: int
    width: int
    layers: int
    heads: int


def frozen(config: Config) -> ComponentConfig | None:
    """The component that is a model's frozen text encoder; None without one, or before its path is read."""
    component = config.components.get(TEXT_ENCODER)
    return component if component and (component.config or component.pretrained) else None


def innermost(component: ComponentConfig) -> ComponentConfig:
    """The component itself, or the frozen text encoder of its model."""
    inner = component.config and frozen(component.config)
    return innermost(inner) if inner else component


def width(component: ComponentConfig) -> int:
    """Width of the features of a frozen text encoder."""
    component = innermost(component)
    if component.pretrained is not None:
        return pretrained_encoder.text_width(component.pretrained)
    assert component.config is not None
    return settings(component.config).width


def check_frozen(config: Config) -> None:
    """Raises UserError where a pretrained text encoder cannot encode the texts of a config."""
    component = frozen(config)
    given = innermost(component).pretrained if component else None
    if given is not None:
        pretrained_encoder.check_text_length(given, config.text.length)


def settings(config: Config) -> TextEncoderSettings:
    """The sizes of a model's own text encoder, or of that of the model of its frozen one.

    Raises:
        UserError: where the model has no `text_layers`.
    """
    component = frozen(config)
    if component is not None and component.config is not None:
        return settings(component.config)
    model = config.model
    sizes = [getattr(model, name, 0) for name in ("width", "text_layers", "heads")]
    if not all(sizes):
        raise UserError(f"{config.name or 'model'}: a {model.kind} has no text encoder")
    return TextEncoderSettings(config.text.vocabulary, *sizes)


class TextEncoder(nn.Module):
    """Encodes token ids (0 is padding) into one feature per token."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, text: Int[Array, "b t"]) -> tuple[Float[Array, "b t d"], Bool[Array, "b 1 1 t"]]:
        """Returns the features and their attention mask, False on padding.

        The first token is never masked, so that attention over an empty text is defined.
        """
        mask = ((text != 0) | (np.arange(text.shape[1]) == 0)[None])[:, None, None, :]
        embedding = self.param("embedding", nn.initializers.normal(1.0), (self.vocabulary, self.width))
        x = (embedding[text] + sincos_1d(text.shape[1], self.width)[None]).astype(self.compute.dtype)
        angles = rope_angles(text.shape[1:], self.width // self.heads)
        x, _ = Stack(self.layers, self.heads, self.compute, name="stack")(x, mask, angles=angles)
        return layer_norm(x, "norm"), mask


def encode_both(
    encoder: TextEncoder, text: Int[Array, "b t"], hidden: Int[Array, "b t"]
) -> tuple[tuple[Float[Array, "b t d"], Float[Array, "b t d"]], Bool[Array, "b 1 1 t"]]:
    """Encodes a text and its masked version in one pass; the attention mask is that of the text.

    Two passes take much longer to compile. The rows alternate, so that each stays on its device.
    """
    b, t = text.shape
    features, mask = encoder(jnp.stack([text, hidden], axis=1).reshape(2 * b, t))
    features = features.reshape(b, 2, t, -1)
    return (features[:, 0], features[:, 1]), mask[::2]


def text_logits(features: Float[Array, "b t d"], embedding: Float[Array, "v d"]) -> Float[Array, "b t v"]:
    """Logits of every token by the encoder's embedding (weight tying), float32."""
    return features.astype(FLOAT32) @ embedding.T * jnp.float32(embedding.shape[1] ** -0.5)


def features_shape(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """The input of a model that is the features of its frozen text encoder; none without one."""
    component = frozen(config)
    if component is None:
        return {}
    return {"text_features": jax.ShapeDtypeStruct((1, config.text.length, width(component)), jnp.float16)}


class FrozenFeatures(nn.Module):
    """Projects the features of a frozen text encoder to the width of a model, in place of a TextEncoder."""

    width: int
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(
        self, text: Int[Array, "b t"], features: Float16[Array, "b t e"]
    ) -> tuple[Float[Array, "b t d"], Bool[Array, "b 1 1 t"]]:
        """Returns features and mask as TextEncoder does; a learned vector stands for an empty text."""
        mask, first = text != 0, (np.arange(text.shape[1]) == 0)[None]
        none = first & ~jnp.any(mask, axis=1, keepdims=True)
        x = nn.LayerNorm(dtype=FLOAT32, name="norm")(features.astype(FLOAT32)).astype(self.compute.dtype)
        x = dense(self.width, self.compute, "project")(x)
        null_embedding = self.param("null_embedding", nn.initializers.normal(1.0), (self.width,)).astype(x.dtype)
        return jnp.where(none[..., None], null_embedding[None, None], x), (mask | none)[:, None, None, :]
