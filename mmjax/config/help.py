"""Output of `--help-config`: every field of a config with its type, default, bounds and documentation."""

import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Mapping
from typing import Any, Literal

from mmjax import registry
from mmjax.config.fields import Config
from mmjax.config.known_fields import KnownField, fields_of
from mmjax.config.schema import bounds

WIDTH = 100


def describe(tree: Mapping[str, Any]) -> str:
    """Describes every field of a config, including those of its kinds of models, losses and optimizers.

    Args:
        tree: the config as nested plain data; need not be valid.
    """
    return "\n".join(_describe(known) for known in fields_of(Config, tree))


def documentation(cls: type, name: str) -> str:
    """Documentation of a field in the "Attributes:" of a config class or its bases; "" if missing."""
    for base in cls.__mro__:
        _, _, attributes = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")
        for names, text in re.findall(r"^    (\w[\w, ]*): (.*(?:\n     +.*)*)", attributes, re.MULTILINE):
            if name in re.split(r",\s*", names):
                return " ".join(text.split())
    return ""


def _describe(known: KnownField) -> str:
    text = documentation(known.owner, known.field.name)
    if known.group:
        summary = inspect.cleandoc(known.group.__doc__ or "").partition("\n\n")[0]
        head, text = f"{known.name}: {known.group.__name__}", text or " ".join(summary.split())
    else:
        limits = list(filter(None, [bounds(known.limits), _choices(known)]))
        head = f"{known.name}: {_type_name(known.hint)} = {_default(known)}" + "".join(f", {limit}" for limit in limits)
    lines = textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join([head, *lines])


def _default(known: KnownField) -> str:
    field = known.field
    if field.name == "kind" and known.kind:
        return repr(known.kind)
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return repr(list(field.default) if isinstance(field.default, tuple) else field.default)


def _choices(known: KnownField) -> str:
    """Registered names that a field may take."""
    table = known.limits.get("registry") or (known.table if known.field.name == "kind" else "")
    return f"of {', '.join(registry.table(table))}" if table else ""


def _type_name(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " | ".join(map(repr, arguments))
    if origin is tuple:
        return f"list of {_type_name(arguments[0])}"
    if origin is dict:
        return f"table of {_type_name(arguments[1])} by name"
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("mmjax.config.fields.", "")
