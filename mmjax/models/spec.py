"""Specification of a kind of model: its config, its module, and what the rest of mmjax needs of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax import registry
from mmjax.config import ComputeConfig, Config, DataConfig, ModelConfig
from mmjax.config.schema import require
from mmjax.models.rules import Rules
from mmjax.nn.compute import UNSHARDED, Compute, Partitioner
from mmjax.types import Batch, Feature, stream

Shapes = dict[str, jax.ShapeDtypeStruct]


def _as_named(config: Config, batch: Batch, key: jax.Array | None) -> dict[str, Any]:
    """The inputs that are fields of the batch."""
    return {name: batch[name] for name in find(config).inputs(config) if name in batch}


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
        components: names of the models that it depends on, in the config and in a model folder.
        frozen: (config) -> patterns of the names of its parameters that are not trained.
        model_fns: (config, compute) -> pure functions of its parameters, for sampling and serving.
    """

    config: type[ModelConfig]
    build: Callable[[Config, Compute], nn.Module]
    inputs: Callable[[Config], Shapes]
    sharding_rules: Callable[[Config], Rules]
    outputs: Callable[[Config], tuple[str, ...]]
    check: Callable[[Config], None] = lambda config: None
    prepare: Callable[[Config, Batch, jax.Array | None], dict[str, Any]] = _as_named
    predictions: Callable[[Config], tuple[str, ...]] = lambda config: ()
    abilities: Callable[[Config], frozenset[str]] = lambda config: frozenset()
    components: tuple[str, ...] = ()
    frozen: Callable[[Config], tuple[str, ...]] = lambda config: ()
    model_fns: Callable[[Config, Compute], Any] | None = None


def find(config: Config) -> ModelSpec:
    """The specification of a config's model."""
    spec: ModelSpec = registry.find("model", config.model.kind, "model.kind")
    return spec


def trained_outputs(config: Config) -> frozenset[str]:
    """The outputs that the losses of a config need."""
    specs = (registry.find("loss", term.kind, f"losses.{name}.kind") for name, term in config.losses.items())
    return frozenset(output for spec in specs for output in spec.needs)


def method(module: nn.Module, name: str | Callable[..., Any]) -> Callable[..., Any]:
    """A method of a module, or a function of (module, *args), as a pure function of (params, *args, **kwargs)."""
    return lambda params, *args, **kwargs: module.apply({"params": params}, *args, **kwargs, method=name)


def dropout_mask(name: str, batch: Batch, key: jax.Array | None, dropout: float) -> dict[str, jax.Array]:
    """In training "NAME_mask", bool [b], False with probability `dropout`; nothing without dropout or a key."""
    if key is None or dropout == 0:
        return {}
    return {f"{name}_mask": jax.random.uniform(stream(key, name), batch["mask"].shape) >= jnp.float32(dropout)}


def check_transformer(width: int, heads: int) -> None:
    """Raises UserError for a width that is not a multiple of the heads, or of 4 for sin-cos positions."""
    require(width % heads == 0, f"model.heads: {heads} does not divide model.width, {width}")
    require(width % 4 == 0, f"model.width: must be a multiple of 4 (sin-cos positions in two directions), not {width}")


def check_widths(name: str, widths: tuple[int, ...], data: DataConfig) -> None:
    """Raises UserError where 2 ** len(widths), the total stride, does not divide the image size, and for sounds."""
    image, size = data.features.get("image"), data.size
    require(
        image is None or image.shape[-1] == 3,
        f"data.source: {data.source} gives spectrograms, and this kind of model needs images of 3 channels; "
        "vision_language takes sounds",
    )
    require(len(widths) > 0, f"model.{name}: needs at least one width")
    cell = 2 ** len(widths)
    require(size % cell == 0, f"data.size: must be a multiple of {cell}, for {len(widths)} {name}, not {size}")


def image_field(name: str, data: DataConfig) -> Feature:
    """The image field of the data that is the model's reference; UserError for an unknown name."""
    images = {field: feature for field, feature in data.features.items() if feature.kind == "image"}
    require(
        name in images,
        f"model.reference: {name!r} is not an image of data.source={data.source}; it has {', '.join(images)}",
    )
    return images[name]


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
        "dense": "flat" if on_cpu else "native",
    }
    given = {name: getattr(config, name) for name in automatic}
    dtype, attention, convolution, dense = (
        automatic[name] if value == "auto" else value for name, value in given.items()
    )
    needs, device = {"cudnn": ("gpu", "an NVIDIA GPU"), "splash": ("tpu", "a TPU")}.get(attention, (platform, ""))
    require(needs == platform, f"compute.attention: {attention} needs {device}; set --config.compute.attention=auto")
    require(
        attention != "cudnn" or dtype == "bfloat16",
        "compute.attention: cudnn computes in 16 bits; set compute.dtype to bfloat16",
    )
    return Compute(
        dtype=jnp.dtype(dtype),
        attention=attention,
        convolution=convolution,
        dense=dense,
        remat=config.remat,
        remat_policy=config.remat_policy,
        unroll=config.unroll or (0 if on_cpu else 1),
        partitioner=partitioner,
    )
