"""Declarations of config fields with bounds and registries."""

import dataclasses
import operator
from collections.abc import Mapping
from typing import Any

from mmjax.types import UserError

_BOUNDS = {"above": operator.gt, "at_least": operator.ge, "below": operator.lt, "at_most": operator.le}


MAX_BATCH = 2**20  # examples
MAX_STEPS = 2**31 - 1  # the state counts them in int32


def setting(default: Any = dataclasses.MISSING, *, factory: Any = dataclasses.MISSING, **limits: Any) -> Any:
    """Declares a field of a config class with limits.

    Args:
        default, factory: as in dataclasses.field.
        limits: `above`, `at_least`, `below`, `at_most`: bounds of a number, or of each item of a list;
            `registry`: table of mmjax.registry for its names, only for fields called `kind`, `source` or `evaluators`;
            `kind`: default kind of a group; `initial`: default entries of a dict.
    """
    return dataclasses.field(default=default, default_factory=factory, metadata=limits)


def check_bounds(name: str, value: Any, limits: Mapping[str, Any]) -> None:
    """Raises UserError if a number, or an item of a list, is out of bounds."""
    for item in value if isinstance(value, tuple) else (value,):
        if not all(holds(item, limits[limit]) for limit, holds in _BOUNDS.items() if limit in limits):
            raise UserError(f"{name}: must be {bounds(limits)}, not {item}")


def bounds(limits: Mapping[str, Any]) -> str:
    """Describes the bounds of a field; "" without bounds."""
    return " and ".join(f"{limit.replace('_', ' ')} {limits[limit]:,}" for limit in _BOUNDS if limit in limits)


def require(condition: bool, message: str) -> None:
    """Raises UserError with a message unless the condition holds."""
    if not condition:
        raise UserError(message)
