"""Declarations of config fields with bounds and registries."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from mmjax.types import UserError

_HOLDS: dict[str, Callable[[Any, Any], bool]] = {
    "above": lambda value, bound: value > bound,
    "at_least": lambda value, bound: value >= bound,
    "below": lambda value, bound: value < bound,
    "at_most": lambda value, bound: value <= bound,
}


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
        for limit in limits.keys() & _HOLDS.keys():
            if not _HOLDS[limit](item, limits[limit]):
                raise UserError(f"{name}: must be {bounds(limits)}, not {item}")


def bounds(limits: Mapping[str, Any]) -> str:
    """Describes the bounds of a field; "" without bounds."""
    words = {"above": "above", "at_least": "at least", "below": "below", "at_most": "at most"}
    return " and ".join(f"{text} {limits[limit]:,}" for limit, text in words.items() if limit in limits)


def require(condition: bool, message: str) -> None:
    """Raises UserError with a message unless the condition holds."""
    if not condition:
        raise UserError(message)
