"""Names in a config to what they stand for: an entry of one of mmjax's tables, or a user's own by dotted path.

Every kind of thing that can be added has one table, a dict by name, where it is defined. A dotted path,
"my_package.my_file:NAME", stands for an entry of the same type in a file of the user's.
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
    "source": "mmjax.data.sources:SOURCES",
    "optimizer": "mmjax.train.optimizer:OPTIMIZERS",
    "sampler": "mmjax.sample:SAMPLERS",
}
NAMED_BY = ("kind", "source", "evaluators")  # the fields of configs that hold such names; no others may
_DOTTED = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*)")


def table(of: str) -> Mapping[str, Any]:
    """The entries of a table by name; `of` is a key of TABLES."""
    module, _, attribute = TABLES[of].partition(":")
    found: Mapping[str, Any] = getattr(importlib.import_module(module), attribute)
    return found


def find(of: str, name: str, field: str) -> Any:
    """The entry of a table that a name stands for.

    Args:
        of: a key of TABLES.
        name: a key of that table, or "my_package.my_file:NAME".
        field: the config's field, for messages.

    Raises:
        UserError: for an unknown name, a package that cannot be imported, or an entry of another type.
    """
    entries = table(of)
    if name in entries:
        return entries[name]
    if dotted := _DOTTED.fullmatch(name):
        return _imported(dotted[1], dotted[2], type(next(iter(entries.values()))), field)
    near = difflib.get_close_matches(name, entries, 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(entries))}, or my_package.my_file:NAME"
    raise UserError(f"{field}: no {of} {name!r}; {hint}")


def _imported(module: str, attribute: str, kind: type, field: str) -> Any:
    path = f"{module}:{attribute}"
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that nothing there stands in for an installed package
    try:
        entry = getattr(importlib.import_module(module), attribute)
    except AttributeError:
        raise UserError(f"{field}: {module} has no {attribute}; {path} must name a {kind.__name__}") from None
    except Exception as error:  # the user's own program, whatever it raises
        told = " ".join(str(error).split())
        raise UserError(f"{field}: {path} cannot be imported: {type(error).__name__}: {told}") from error
    if not isinstance(entry, kind):
        raise UserError(f"{field}: {path} must be a {kind.__name__}, not {type(entry).__name__}")
    return entry


def check_plugins(tree: Any, plugins: Iterable[str]) -> None:
    """Refuses dotted paths into packages that the user did not name; nothing is imported.

    Args:
        tree: a config as nested plain data, such as somebody else's config.json holds.
        plugins: top-level packages that the user trusts.

    Raises:
        UserError: for the first dotted path into another package.
    """
    allowed = set(plugins)
    for field, name, package in _dotted_paths(tree):
        if package not in allowed:
            raise UserError(
                f"{field}: {name} is code of the package {package}, which only runs if you name it; if you trust it, "
                f"add --plugins={package} (in Python: plugins=({package!r},))"
            )


def packages(tree: Any) -> tuple[str, ...]:
    """The packages that dotted paths of a config, as nested plain data, lead into."""
    return tuple(sorted({package for _, _, package in _dotted_paths(tree)}))


def _dotted_paths(tree: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Every dotted path in a config as nested plain data: its field, the path, and its package."""
    for key, value in tree.items() if isinstance(tree, Mapping) else ():
        names = [key]  # the name of a loss is its kind where it has no other
        if key in NAMED_BY:
            names += value if isinstance(value, (list, tuple)) else [value]
        for name in names:
            if isinstance(name, str) and (dotted := _DOTTED.fullmatch(name)):
                yield f"{prefix}{key}", name, dotted[1].partition(".")[0]
        yield from _dotted_paths(value, f"{prefix}{key}.")
