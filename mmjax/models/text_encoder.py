"""Text encoders: a transformer over SentencePiece tokens, and what takes the features of one that is frozen."""

from dataclasses import dataclass

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float16, Int

from mmjax.config import Config
from mmjax.models.rules import STACK, Rules
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.norm import layer_norm
from mmjax.nn.positions import rope_angles, sincos_1d
from mmjax.nn.transformer import Stack
from mmjax.types import FLOAT32, UserError

# The sharding rules of one named "text", and of the features of a frozen one.
RULES: Rules = (*STACK, (r"text/embedding", ("model", "fsdp")))
FROZEN_RULES: Rules = ((r"text/project/kernel", (None, "fsdp")), (r"text/null_embedding", ("fsdp",)))


@dataclass(frozen=True)
class TextEncoderSettings:
    """Sizes of a text encoder: of its vocabulary and of its transformer."""

    vocabulary: int
    width: int
    layers: int
    heads: int


def settings(config: Config) -> TextEncoderSettings:
    """The text encoder of a config's model: the frozen one that it stands on, or its own.

    Raises:
        UserError: for a kind of model that has none: no `text_layers` among its fields.
    """
    frozen = config.component("text_encoder")
    if frozen is not None:
        return settings(frozen)
    model = config.model
    sizes = [getattr(model, name, 0) for name in ("width", "text_layers", "heads")]
    if not all(sizes):
        raise UserError(f"{config.name or 'model'}: a {model.kind} has no text encoder")
    return TextEncoderSettings(config.text.vocabulary, *sizes)


class TextEncoder(nn.Module):
    """Maps token ids (0 is padding) to one feature a token.

    Attributes:
        vocabulary: number of token ids.
        width, layers, heads: of the transformer.
    """

    vocabulary: int
    width: int
    layers: int
    heads: int
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, text: Int[Array, "b t"]) -> tuple[Float[Array, "b t d"], Bool[Array, "b 1 1 t"]]:
        """Returns the features, and the attention mask of those who look at them: False on padding.

        The first token is always seen, so that there is something to look at where there is no text.
        """
        mask = ((text != 0) | (np.arange(text.shape[1]) == 0)[None])[:, None, None, :]
        embedding = self.param("embedding", nn.initializers.normal(1.0), (self.vocabulary, self.width))
        x = (embedding[text] + sincos_1d(text.shape[1], self.width)[None]).astype(self.compute.dtype)
        angles = rope_angles(text.shape[1:], self.width // self.heads)
        stack = Stack(self.layers, self.heads, self.compute, name="stack")
        x = stack(x, mask, angles=angles)
        return layer_norm(x, "norm"), mask


def encode_both(
    encoder: TextEncoder, text: Int[Array, "b t"], hidden: Int[Array, "b t"]
) -> tuple[tuple[Float[Array, "b t d"], Float[Array, "b t d"]], Bool[Array, "b 1 1 t"]]:
    """The features of a text and of the same with hidden words, and the mask of the first, by one pass of the encoder.

    A program of two passes takes much longer to compile. The rows take turns, so that each stays on its device.
    """
    b, t = text.shape
    features, mask = encoder(jnp.stack([text, hidden], axis=1).reshape(2 * b, t))
    features = features.reshape(b, 2, t, -1)
    return (features[:, 0], features[:, 1]), mask[::2]


def text_logits(features: Float[Array, "b t d"], embedding: Float[Array, "v d"]) -> Float[Array, "b t v"]:
    """Of every token which it is, by the encoder's own table; float32."""
    return features.astype(FLOAT32) @ embedding.T * jnp.float32(embedding.shape[1] ** -0.5)


class FrozenFeatures(nn.Module):
    """Brings the features of a frozen text encoder to a model's width; stands where a TextEncoder would.

    Attributes:
        width: of the model.
    """

    width: int
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(
        self, text: Int[Array, "b t"], features: Float16[Array, "b t e"]
    ) -> tuple[Float[Array, "b t d"], Bool[Array, "b 1 1 t"]]:
        """As TextEncoder gives. Where there is no text at all, a learned vector is the only one that is seen.

        Args:
            text: the token ids that the features are of; those of padding are not looked at.
        """
        mask, first = text != 0, (np.arange(text.shape[1]) == 0)[None]
        none = first & ~jnp.any(mask, axis=1, keepdims=True)
        x = nn.LayerNorm(dtype=FLOAT32, name="norm")(features.astype(FLOAT32)).astype(self.compute.dtype)
        x = nn.Dense(self.width, dtype=self.compute.dtype, name="project")(x)
        null_embedding = self.param("null_embedding", nn.initializers.normal(1.0), (self.width,)).astype(
            self.compute.dtype
        )
        return jnp.where(none[..., None], null_embedding[None, None], x), (mask | none)[:, None, None, :]
