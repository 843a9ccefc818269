"""How a field of a config says what it may be: bounds, and the table that its names are looked up in."""

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
    """A field of a config class with limits to its values.

    Args:
        default, factory: as in dataclasses.field.
        limits: `above`, `at_least`, `below`, `at_most`: bounds of a number, or of each item of a list;
            `registry`: the table of mmjax.registry that names are looked up in; a field of names must then be called
            `kind`, `source` or `evaluators`. `kind`: the default kind of a group; `initial`: entries of a table that
            the config leaves out.
    """
    return dataclasses.field(default=default, default_factory=factory, metadata=limits)


def check_bounds(name: str, value: Any, limits: Mapping[str, Any]) -> None:
    """Raises UserError where a number, or an item of a list, is outside its bounds."""
    for item in value if isinstance(value, tuple) else (value,):
        for limit in limits.keys() & _HOLDS.keys():
            if not _HOLDS[limit](item, limits[limit]):
                raise UserError(f"{name}: must be {bounds(limits)}, not {item}")


def bounds(limits: Mapping[str, Any]) -> str:
    """The bounds of a field in words; "" where it has none."""
    words = {"above": "above", "at_least": "at least", "below": "below", "at_most": "at most"}
    return " and ".join(f"{text} {limits[limit]:,}" for limit, text in words.items() if limit in limits)


def require(condition: bool, message: str) -> None:
    """Raises UserError with this message unless the condition holds."""
    if not condition:
        raise UserError(message)
