"""Models out of the layers in `nn`: encoders, fusion, decoders and generators, each with its sharding rules."""

from typing import Any

import jax
import jax.numpy as jnp

from mmjax.config import Config
from mmjax.models.direct import DirectGenerator, sharding_rules
from mmjax.types import Params

__all__ = ["DirectGenerator", "build", "init", "sharding_rules"]


def build(config: Config) -> DirectGenerator:
    """The model that a recipe describes."""
    return DirectGenerator(config.model, config.text.vocabulary, config.data.size)


def init(config: Config, key: jax.Array) -> Params:
    """Fresh parameters of the model of a recipe."""
    seen: dict[str, Any] = {"text": jnp.zeros((1, config.text.length), jnp.int32)}
    if config.model.reference:
        seen["reference"] = jnp.zeros((1, config.data.size, config.data.size, 3), jnp.float32)
    return build(config).init(key, **seen)["params"]
