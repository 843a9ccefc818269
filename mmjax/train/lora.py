"""LoRA: low-rank additions to chosen kernels of a frozen model (Hu et al. 2021, arXiv:2106.09685, section 4.1).

A kernel W becomes W + alpha / rank * a b, with `a` from its inputs to `rank` numbers and `b` from these to its outputs.
At first `a` is random and `b` zero, so that training starts from the model as it is. The added matrices are a tree of
their own, `.../kernel/a` and `.../kernel/b`: only they are trained, have optimizer state and are in checkpoints.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from mmjax.config import LoraConfig
from mmjax.train.batch_stats import BATCH_STATS
from mmjax.train.kernels import Axes, kernels
from mmjax.types import Outputs, Params, UserError, stream

BASE = "base"  # the frozen model among the inputs
ANY = "**/"  # in a pattern: any beginning of a name
SHOWN = 12  # kernels in an error


def scale(config: LoraConfig) -> float:
    """The factor of a b: alpha / rank."""
    return (config.alpha or config.rank) / config.rank


def chosen(config: LoraConfig, params: Params) -> dict[str, Axes]:
    """The kernels that are added to, by name, with their input and output axes.

    Args:
        params: parameters of the model, or their shapes.

    Raises:
        UserError: for a pattern that is none or matches no kernel, or a rank that saves nothing.
    """
    axes = kernels(params)
    found: dict[str, Axes] = {}
    for pattern in config.kernels:
        try:
            matching = [name for name in axes if re.fullmatch(pattern.replace(ANY, ".*"), name)]
        except re.error as error:
            raise UserError(f"lora.kernels: {pattern!r} is no regular expression: {error}") from None
        if not matching:
            more = f" and {len(axes) - SHOWN} more" if len(axes) > SHOWN else ""
            raise UserError(
                f"lora.kernels: {pattern!r} matches no kernel of this model, which has "
                f"{', '.join(sorted(axes)[:SHOWN])}{more}"
            )
        found |= {name: axes[name] for name in matching}
    shapes = flax.traverse_util.flatten_dict(params, sep="/")
    for name, (inputs, outputs) in found.items():
        sides = [math.prod(shapes[name].shape[axis] for axis in side) for side in (inputs, outputs)]
        if config.rank > min(sides):
            raise UserError(
                f"lora.rank: {config.rank} is more than {name}, {sides[0]} x {sides[1]}, has; take a smaller one, or "
                "leave it out of lora.kernels"
            )
    return found


def init(config: LoraConfig, params: Params, key: jax.Array) -> Params:
    """A LoRA that adds nothing yet: `a` normal with variance 1 / inputs, `b` zeros, float32.

    Args:
        params: parameters of the model, or their shapes.

    Raises:
        UserError: see chosen.
    """
    shapes = flax.traverse_util.flatten_dict(params, sep="/")
    tree = {}
    for name, (inputs, outputs) in chosen(config, params).items():
        shape = shapes[name].shape
        layers = shape[: inputs[0]]  # of a scanned stack
        ins, outs = (tuple(shape[axis] for axis in side) for side in (inputs, outputs))
        deviation = jnp.float32(1 / math.sqrt(math.prod(ins)))
        tree[f"{name}/a"] = deviation * jax.random.normal(stream(key, name), (*layers, *ins, config.rank))
        tree[f"{name}/b"] = jnp.zeros((*layers, config.rank, *outs))
    return flax.traverse_util.unflatten_dict(tree, sep="/")


def product(kernel: Any, a: Any, b: Any) -> Float[Array, "..."]:
    """a b in the shape of a kernel, float32; that of each layer where the kernel has an axis of layers."""
    stacked = a.ndim + b.ndim - kernel.ndim == 3
    batch = ((0,), (0,)) if stacked else ((), ())
    contracted = ((a.ndim - 1,), (int(stacked),))
    return lax.dot_general(jnp.asarray(a), jnp.asarray(b), (contracted, batch), precision=lax.Precision.HIGHEST)


def merged(params: Params, lora: Params, scale: float) -> Params:
    """The parameters of a model with scale * a b added to its kernels."""
    flat, added = (flax.traverse_util.flatten_dict(tree, sep="/") for tree in (params, lora))
    for name in (each.removesuffix("/a") for each in added if each.endswith("/a")):
        delta = jnp.float32(scale) * product(flat[name], added[f"{name}/a"], added[f"{name}/b"])
        flat[name] = flat[name] + delta.astype(flat[name].dtype)
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def shardings(config: LoraConfig, params: Params, placed: Any) -> Any:
    """The shardings of a LoRA: the axes of its matrices are sharded as those of their kernels, the rank is not.

    Args:
        params: shapes of the model's parameters.
        placed: their shardings.
    """
    flat = flax.traverse_util.flatten_dict(placed, sep="/")
    tree = {}
    for name, (inputs, outputs) in chosen(config, params).items():
        mesh, axes = flat[name].mesh, tuple(flat[name].spec)
        layers, ins, outs = axes[: inputs[0]], [axes[axis] for axis in inputs], [axes[axis] for axis in outputs]
        tree[f"{name}/a"] = NamedSharding(mesh, PartitionSpec(*layers, *ins, None))
        tree[f"{name}/b"] = NamedSharding(mesh, PartitionSpec(*layers, None, *outs))
    return flax.traverse_util.unflatten_dict(tree, sep="/")


def make_apply(apply: Callable[..., Outputs], scale: float) -> Callable[..., Outputs]:
    """apply(lora, base=params of the model, **inputs): the model with its LoRA; batch statistics stay as they are."""

    def apply_lora(lora: Params, base: Params, **inputs: Any) -> Outputs:
        outputs = apply(merged(base, lora, scale), **inputs)
        return {name: value for name, value in outputs.items() if not name.startswith(f"{BATCH_STATS}/")}

    return apply_lora


def with_base(inputs: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Adds the frozen model, which the train step adds to the batch, to the inputs that a function prepares of it."""

    def prepared(batch: Mapping[str, Any], key: jax.Array | None) -> dict[str, Any]:
        return inputs(batch, key) | {BASE: batch[BASE]}

    return prepared
