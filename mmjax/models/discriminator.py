"""Patch discriminator of adversarial training."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.config import Config
from mmjax.models.rules import Rules
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.convolution import Convolution
from mmjax.types import Params


def build(config: Config, compute: Compute = DEFAULT) -> "Discriminator":
    """Builds the discriminator of a config."""
    return Discriminator(config.discriminator.widths, compute)


def init(config: Config, key: jax.Array) -> Params:
    """Initializes the parameters, for images or clips."""
    frames = (config.data.frames,) if config.data.frames > 1 else ()
    return build(config).init(key, jnp.zeros((1, *frames, config.data.size, config.data.size, 3)))["params"]


def sharding_rules(config: Config) -> Rules:
    """Sharding rules of the discriminator."""
    window = (None,) * (3 if config.data.frames > 1 else 2)
    inner = ((r"down_\d+/kernel", (*window, "fsdp", "model")),) if len(config.discriminator.widths) > 1 else ()
    return (
        ("down_0/kernel", (*window, None, "model")),  # its input is pixels
        *inner,
        ("logits/kernel", (*window, "fsdp", None)),
        (".*bias", (None,)),
    )


class Discriminator(nn.Module):
    """Strided convolutions with leaky ReLU, and a real-or-fake logit for each patch.

    After Isola et al. 2017 (arXiv:1611.07004, section 3.2.2), of any rank, without normalization so that examples are
    independent.

    Attributes:
        widths: channels of the convolutions; each halves every axis, time included.
    """

    widths: tuple[int, ...]
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, image: Float[Array, "b *space c"]) -> tuple[Float[Array, "b *patches"], list[Any]]:
        """Returns the logits of the patches, float32, and the features of each layer, [b, *smaller, width]."""
        x, features = image, []
        for i, width in enumerate(self.widths):
            x = nn.leaky_relu(Convolution(width, 4, 2, compute=self.compute, name=f"down_{i}")(x), 0.2)
            features.append(x)
        logits = Convolution(1, compute=self.compute, name="logits")(x)
        return logits[..., 0].astype(jnp.float32), features
