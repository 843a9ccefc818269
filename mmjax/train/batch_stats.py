"""Running averages of batch statistics, such as the means and variances of batch normalization.

The running averages are parameters without a gradient, so that checkpoints, exports and sharding rules need no special
case. In training, modules sow the statistics of the batch into the collection "batch_stats" under the names of the
averages, which the train step then updates. The parameter EMA (optimizer.ema_decay) averages them like any parameter.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.types import Outputs, Params, leaf_name

BATCH_STATS = "batch_stats"
MOMENTUM = 0.9  # decay of the running averages
_PREFIX = f"{BATCH_STATS}/"


def make_apply(module: nn.Module) -> Callable[..., Outputs]:
    """apply(params, **inputs): the module's outputs and, in training, its batch statistics as "batch_stats/NAME".

    Inputs that the module has no argument for are left out: loss terms prepare them for themselves.
    """
    taken = inspect.signature(module.__call__).parameters

    def apply(params: Params, **inputs: Any) -> Outputs:
        inputs = {name: value for name, value in inputs.items() if name in taken}
        outputs, variables = module.apply({"params": params}, mutable=[BATCH_STATS], **inputs)
        leaves = jax.tree_util.tree_leaves_with_path(variables.get(BATCH_STATS, {}))
        return outputs | {_PREFIX + leaf_name(path): value for path, value in leaves}

    return apply


def ema_deltas(params: Params, outputs: Outputs, weight: jax.Array) -> dict[str, jax.Array]:
    """The difference of each batch statistic among a module's outputs from its running average, weighted."""
    named = {leaf_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    values = {name.removeprefix(_PREFIX): value for name, value in outputs.items() if name.startswith(_PREFIX)}
    return {name: weight * (value - named[name]) for name, value in values.items()}


def ema_update(params: Params, moves: Mapping[str, jax.Array]) -> Params:
    """The parameters with updated running averages."""

    def move(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        name = leaf_name(path)
        return leaf + jnp.float32(1.0 - MOMENTUM) * moves[name] if name in moves else leaf

    updated: Params = jax.tree_util.tree_map_with_path(move, params)
    return updated
