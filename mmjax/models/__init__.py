"""Models out of the layers in `nn`: encoders, fusion, decoders and generators, each with its sharding rules.

A model is a file with three functions of the config: `build` gives the module, `inputs` the names and shapes of what it
is applied to, `sharding_rules` where its parameters lie on the mesh.
"""

from types import ModuleType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.config import Config
from mmjax.models import direct, masked_generator, vision_language, visual_tokenizer
from mmjax.models.rules import Rules
from mmjax.nn.partitioner import UNSHARDED, Partitioner
from mmjax.types import Params

MODELS: dict[str, ModuleType] = {
    "direct": direct,
    "masked_generator": masked_generator,
    "vision_language": vision_language,
    "visual_tokenizer": visual_tokenizer,
}


def build(config: Config, partitioner: Partitioner = UNSHARDED) -> nn.Module:
    """The module that a config describes, its activations laid out as told."""
    module: nn.Module = MODELS[config.model.kind].build(config, partitioner)
    return module


def inputs(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    """What the model is applied to, by name: shapes for one example."""
    found: dict[str, jax.ShapeDtypeStruct] = MODELS[config.model.kind].inputs(config)
    return found


def sharding_rules(config: Config) -> Rules:
    """The table of sharding rules: (pattern of a parameter's whole name, mesh axis of each of its axes)."""
    rules: Rules = MODELS[config.model.kind].sharding_rules(config)
    return rules


def init(config: Config, key: jax.Array) -> Params:
    """Fresh parameters of the model of a config."""
    seen: dict[str, Any] = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in inputs(config).items()}
    return build(config).init(key, **seen)["params"]
