"""Registry of models, losses, ...: resolves the names of a config.

A name is a key of one of the tables, or a dotted path to a user's entry, "my_package.my_file:NAME".
"""

import difflib
import importlib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mmjax.types import UserError

TABLES = {
    "model": "mmjax.models:MODELS",
    "loss": "mmjax.losses:LOSSES",
    "evaluator": "mmjax.evaluate:EVALUATORS",
    "family": "mmjax.pretrained:FAMILIES",
    "source": "mmjax.data:SOURCES",
    "optimizer": "mmjax.train.optimizer:OPTIMIZERS",
    "sampler": "mmjax.sample:SAMPLERS",
}
NAMED_BY = ("kind", "source", "evaluators", "model_type")  # the only config fields that hold names
_DOTTED = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")


def table(of: str) -> Mapping[str, Any]:
    """The entries by name of a table, a key of TABLES."""
    module, _, attribute = TABLES[of].partition(":")
    entries: Mapping[str, Any] = getattr(importlib.import_module(module), attribute)
    return entries


def find(of: str, name: str, field: str) -> Any:
    """Finds an entry of a table.

    Args:
        of: a key of TABLES.
        name: a key of that table, or "my_package.my_file:NAME".
        field: config field, for messages.

    Raises:
        UserError: for an unknown name, a package that cannot be imported, or an entry of another type.
    """
    entries = table(of)
    if name in entries:
        return entries[name]
    if dotted := _DOTTED.fullmatch(name):
        return _import(dotted[1], dotted[2], type(next(iter(entries.values()))), field)
    near = difflib.get_close_matches(name, entries, 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(entries))}, or my_package.my_file:NAME"
    raise UserError(f"{field}: no {of} {name!r}; {hint}")


def _import(module: str, attribute: str, kind: type, field: str) -> Any:
    path = f"{module}:{attribute}"
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that it does not shadow installed packages
    try:
        entry = getattr(importlib.import_module(module), attribute)
    except AttributeError:
        raise UserError(f"{field}: {module} has no {attribute}; {path} must name a {kind.__name__}") from None
    except Exception as error:  # the user's program may raise anything
        reason = " ".join(str(error).split())
        raise UserError(f"{field}: {path} cannot be imported: {type(error).__name__}: {reason}") from error
    if not isinstance(entry, kind):
        raise UserError(f"{field}: {path} must be a {kind.__name__}, not {type(entry).__name__}")
    return entry


def check_plugins(tree: Any, plugins: Iterable[str]) -> None:
    """Rejects dotted paths into packages that the user does not trust, without importing them.

    Args:
        tree: a config as nested plain data, such as of a downloaded config.json.
        plugins: trusted top-level packages.

    Raises:
        UserError: for the first path into another package.
    """
    allowed = set(plugins)
    for field, name, package in _dotted_paths(tree):
        if package not in allowed:
            raise UserError(
                f"{field}: {name} is code of the package {package}, which only runs if you name it; if you trust it, "
                f"add --plugins={package} (in Python: plugins=({package!r},))"
            )


def packages(tree: Any) -> tuple[str, ...]:
    """Top-level packages of the dotted paths of a config as nested plain data."""
    return tuple(sorted({package for _, _, package in _dotted_paths(tree)}))


def _dotted_paths(tree: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yields (field, dotted path, package) for each dotted path of a config as nested plain data."""
    for key, value in tree.items() if isinstance(tree, Mapping) else ():
        names = [key]  # the name of a loss is its default kind
        if key in NAMED_BY:
            names += value if isinstance(value, (list, tuple)) else [value]
        for name in names:
            if isinstance(name, str) and (dotted := _DOTTED.fullmatch(name)):
                yield f"{prefix}{key}", name, dotted[1].partition(".")[0]
        yield from _dotted_paths(value, f"{prefix}{key}.")
