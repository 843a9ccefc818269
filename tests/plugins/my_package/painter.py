"""A model that draws one color, the mean of what the words of the text stand for."""

from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.config import Config, ModelConfig
from mmjax.config.schema import setting
from mmjax.models import ModelSpec
from mmjax.nn.compute import Compute


@dataclass(frozen=True)
class PainterConfig(ModelConfig):
    """A model that draws one color.

    Attributes:
        width: of the embedding of a word.
    """

    width: int = setting(8, above=0)


class Painter(nn.Module):
    width: int
    vocabulary: int
    size: int

    @nn.compact
    def __call__(self, text: jax.Array) -> dict[str, jax.Array]:
        """Token ids [b, t], 0 is padding, to images [b, y, x, 3], -1 to 1."""
        words = nn.Embed(self.vocabulary, self.width, name="words")(text)
        seen = (text != 0)[..., None]
        color = nn.Dense(3, name="color")(jnp.mean(words, axis=1, where=seen))
        return {"image": jnp.broadcast_to(color[:, None, None], (len(text), self.size, self.size, 3))}


# Mesh axis of each axis of each parameter: strictly, so that nothing large is replicated by mistake.
RULES = (("words/embedding", ("model", "fsdp")), ("color/kernel", ("fsdp", None)), ("color/bias", (None,)))


def build(config: Config, compute: Compute) -> Painter:
    return Painter(config.model.width, config.text.vocabulary, config.data.size)


MODEL = ModelSpec(
    config=PainterConfig,
    build=build,
    inputs=lambda config: {"text": jax.ShapeDtypeStruct((1, config.text.length), jnp.int32)},
    sharding_rules=lambda config: RULES,
    outputs=lambda config: ("image",),  # for losses
    predictions=lambda config: ("image",),  # for evaluators
    abilities=lambda config: frozenset({"generate_directly"}),
)
