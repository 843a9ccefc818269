"""Running averages of what layers find of the batch, such as the means that batch normalization subtracts.

They are parameters that no gradient reaches, so that checkpoints, exports and sharding rules know nothing else of them.
In training a module puts what it found of the batch into the collection "statistics", under the names that the averages
have among the parameters, and the step moves those towards it. An average of the parameters (optimizer.ema_decay) is one of
these as well.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.types import Outputs, Params, leaf_name

COLLECTION = "statistics"
MOMENTUM = 0.9  # what is left of an average after one step
_PREFIX = f"{COLLECTION}/"


def make_apply(module: nn.Module) -> Callable[..., Outputs]:
    """apply(params, **seen): the module's outputs and, in training, "statistics/NAME" of each average."""

    def apply(params: Params, **seen: Any) -> Outputs:
        outputs, put = module.apply({"params": params}, mutable=[COLLECTION], **seen)
        leaves = jax.tree_util.tree_leaves_with_path(put.get(COLLECTION, {}))
        return outputs | {_PREFIX + leaf_name(path): value for path, value in leaves}

    return apply


def collect(outputs: Outputs) -> dict[str, jax.Array]:
    """What the module found of the batch, by the names of the averages."""
    return {name.removeprefix(_PREFIX): value for name, value in outputs.items() if name.startswith(_PREFIX)}


def deltas(params: Params, values: Mapping[str, jax.Array], share: jax.Array) -> dict[str, jax.Array]:
    """How far each value is from its running average, times a share."""
    named = {leaf_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    return {name: share * (value - named[name]) for name, value in values.items()}


def ema_update(params: Params, moves: Mapping[str, jax.Array]) -> Params:
    """The parameters with the running averages a step further."""

    def move(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        name = leaf_name(path)
        return leaf + jnp.float32(1.0 - MOMENTUM) * moves[name] if name in moves else leaf

    updated: Params = jax.tree_util.tree_map_with_path(move, params)
    return updated
