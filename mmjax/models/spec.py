"""Specification of a kind of model: its config, its module, and what the rest of mmjax needs of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax import registry
from mmjax.config import ComputeConfig, Config, LossConfig, ModelConfig
from mmjax.models.rules import Rules
from mmjax.nn.compute import Compute
from mmjax.nn.partitioner import UNSHARDED, Partitioner
from mmjax.types import Batch, UserError

Shapes = dict[str, jax.ShapeDtypeStruct]


def _as_named(config: Config, batch: Batch, key: jax.Array | None) -> dict[str, Any]:
    """The inputs that are fields of the batch."""
    return {name: batch[name] for name in find(config).inputs(config) if name in batch}


def _no_check(config: Config) -> None:
    pass


@dataclass(frozen=True)
class ModelSpec:
    """A kind of model that a config may name.

    Attributes:
        config: its config class.
        build: (config, compute) -> the module.
        inputs: (config) -> names and shapes of the module's inputs, for a batch of one.
        sharding_rules: (config) -> sharding rules, see models/rules.py.
        outputs: (config) -> names of the outputs that losses can use.
        check: (config) raises UserError for an invalid config.
        prepare: (config, batch, random key or None in evaluation) -> inputs of the module that no loss prepares.
        predictions: (config) -> names of its predictions in evaluation; see evaluate/spec.py. "image" is sampled
            unless it is an output; "caption" and "answer" are decoded.
        abilities: (config) -> abilities of a trained one: keys of mmjax.export.load.ABILITIES.
        components: names of the frozen models that it depends on, in the config and in a model folder.
        model_fns: (config, compute) -> pure functions of its parameters, for sampling and serving.
    """

    config: type[ModelConfig]
    build: Callable[[Config, Compute], nn.Module]
    inputs: Callable[[Config], Shapes]
    sharding_rules: Callable[[Config], Rules]
    outputs: Callable[[Config], tuple[str, ...]]
    check: Callable[[Config], None] = _no_check
    prepare: Callable[[Config, Batch, jax.Array | None], dict[str, Any]] = _as_named
    predictions: Callable[[Config], tuple[str, ...]] = lambda config: ()
    abilities: Callable[[Config], frozenset[str]] = lambda config: frozenset()
    components: tuple[str, ...] = ()
    model_fns: Callable[[Config, Compute], Any] | None = None


def find(config: Config) -> ModelSpec:
    """The specification of a config's model."""
    spec: ModelSpec = registry.find("model", config.model.kind, "model.kind")
    return spec


def trained_outputs(config: Config) -> frozenset[str]:
    """The outputs that the losses of a config need."""
    terms: Mapping[str, LossConfig] = config.losses
    return frozenset(
        name for key, term in terms.items() for name in registry.find("loss", term.kind, f"losses.{key}.kind").needs
    )


def method(module: nn.Module, name: str) -> Callable[..., Any]:
    """A method of a module as a pure function of (params, *args, **kwargs)."""
    return lambda params, *args, **kwargs: module.apply({"params": params}, *args, **kwargs, method=name)


def keep_with_probability(key: jax.Array, rows: jax.Array, dropout: float) -> jax.Array:
    """bool [b], False with probability `dropout`."""
    return jax.random.uniform(key, rows.shape[:1]) >= jnp.float32(dropout)


def resolve_compute(config: ComputeConfig, platform: str, partitioner: Partitioner = UNSHARDED) -> Compute:
    """Resolves the `auto` settings of a config on a platform, "cpu", "gpu" or "tpu".

    Raises:
        UserError: for an attention kernel that the platform lacks or that does not support the dtype.
    """
    on_cpu = platform == "cpu"
    # cuDNN's kernel is never automatic: it rejects some lengths and head widths.
    automatic = {
        "dtype": "float32" if on_cpu else "bfloat16",
        "attention": "splash" if platform == "tpu" else "xla",
        "convolution": "matmul" if on_cpu else "native",
    }
    chosen = {name: getattr(config, name) for name in automatic}
    chosen = {name: automatic[name] if value == "auto" else value for name, value in chosen.items()}
    needs, device = {"cudnn": ("gpu", "an NVIDIA GPU"), "splash": ("tpu", "a TPU")}.get(
        chosen["attention"], (platform, "")
    )
    if needs != platform:
        raise UserError(f"compute.attention: {chosen['attention']} needs {device}; set --config.compute.attention=auto")
    if chosen["attention"] == "cudnn" and chosen["dtype"] != "bfloat16":
        raise UserError("compute.attention: cudnn computes in 16 bits; set compute.dtype to bfloat16")
    return Compute(
        dtype=jnp.dtype(chosen["dtype"]),
        attention=chosen["attention"],
        convolution=chosen["convolution"],
        remat=config.remat,
        remat_policy=config.remat_policy,
        unroll=config.unroll or (0 if on_cpu else 1),
        partitioner=partitioner,
    )
