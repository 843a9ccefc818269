"""Models, one kind per file, with their configs, checks and sharding rules."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.config import Config
from mmjax.models import direct, masked_generator, vision_language, visual_tokenizer
from mmjax.models.rules import Rules
from mmjax.models.spec import ModelSpec, find, resolve_compute
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.types import Params

__all__ = ["MODELS", "ModelSpec", "build", "find", "init", "inputs", "resolve_compute", "sharding_rules"]

MODELS: dict[str, ModelSpec] = {
    "direct_generator": direct.MODEL,
    "masked_generator": masked_generator.MODEL,
    "vision_language": vision_language.MODEL,
    "visual_tokenizer": visual_tokenizer.MODEL,
}


def build(config: Config, compute: Compute = DEFAULT) -> nn.Module:
    """The Flax module of a config."""
    return find(config).build(config, compute)


def inputs(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """Names and shapes of the module's inputs, for a batch of one."""
    return find(config).inputs(config)


def sharding_rules(config: Config) -> Rules:
    """Sharding rules: (pattern of the full parameter name, mesh axis of each array axis)."""
    return find(config).sharding_rules(config)


def init(config: Config, key: jax.Array) -> Params:
    """Initializes the parameters of a config's model."""
    zeros: dict[str, Any] = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in inputs(config).items()}
    return build(config).init(key, **zeros)["params"]
