"""Enumerates and describes the fields of a config, which depend on the kinds of models, losses, ... that it names."""

import dataclasses
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from mmjax import registry
from mmjax.config.fields import Config
from mmjax.config.schema import bounds
from mmjax.types import UserError

WIDTH = 100  # of descriptions


def group_of(hint: Any) -> type | None:
    """The config class that a field of this type holds, or None."""
    choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next((choice for choice in choices if isinstance(choice, type) and dataclasses.is_dataclass(choice)), None)


def member_of(hint: Any) -> type | None:
    """The config class of the values of a dict field, or None."""
    arguments = typing.get_args(hint) if typing.get_origin(hint) is dict else ()
    return group_of(arguments[1]) if arguments else None


def _kind(limits: Mapping[str, Any], value: Any, name: str, default: str = "") -> str:
    """The `kind` of a group of fields."""
    kind = (value.get("kind") if isinstance(value, Mapping) else None) or default or limits.get("kind", "")
    if not isinstance(kind, str):
        raise UserError(f"{name}.kind: must be a text, not {kind!r}")
    return kind


def config_class(cls: type, limits: Mapping[str, Any], value: Any, name: str, default: str = "") -> type:
    """The config class of a group; for a registered kind, that of its `kind`."""
    if "registry" not in limits:
        return cls
    config: type = registry.find(limits["registry"], _kind(limits, value, name, default), f"{name}.kind").config
    return config


@dataclasses.dataclass(frozen=True)
class KnownField:
    """A field that a config may have.

    Attributes:
        name: full dotted name.
        hint: its type.
        field: its declaration.
        owner: the config class that declares it.
        group: the config class of a group of fields, else None.
        table, kind: of a group with a registered kind, and of its fields: the table of mmjax.registry and the name.
    """

    name: str
    hint: Any
    field: dataclasses.Field[Any]
    owner: type
    group: type | None = None
    table: str = ""
    kind: str = ""

    @property
    def limits(self) -> Mapping[str, Any]:
        return self.field.metadata


def fields_of(
    cls: type, tree: Any, dotted: str = "", prefix: str = "", table: str = "", kind: str = ""
) -> Iterator[KnownField]:
    """Yields every field of a config.

    Args:
        cls: its config class.
        tree: the config as nested plain data, which decides the kinds.
        dotted: a field whose parents are assumed to exist.
        prefix, table, kind: of the fields of `cls`, see KnownField.
    """
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        name, hint = prefix + f.name, hints[f.name]
        below = tree.get(f.name) if isinstance(tree, Mapping) else None
        group, member = group_of(hint), member_of(hint)
        if group is None or group is Config:
            yield KnownField(name, hint, f, cls, None, table, kind)
        if member:
            keys = [*below] if isinstance(below, Mapping) else [*f.metadata.get("initial", ())]
            if dotted.startswith(f"{name}."):
                keys.append(dotted.removeprefix(f"{name}.").partition(".")[0])
            for key in dict.fromkeys(map(str, keys)):
                value = below.get(key) if isinstance(below, Mapping) else None
                yield from _group_fields(member, KnownField(f"{name}.{key}", member, f, cls), value, dotted, key)
        elif group and (group is not Config or dotted.startswith(f"{name}.")):  # avoids infinite recursion
            yield from _group_fields(group, KnownField(name, hint, f, cls), below, dotted, "")


def _group_fields(group: type, known: KnownField, tree: Any, dotted: str, default: str) -> Iterator[KnownField]:
    """Yields a group and its fields; `default` is its kind unless it is set."""
    table = known.limits.get("registry", "")
    kind = _kind(known.limits, tree, known.name, default) if table else ""
    cls = config_class(group, known.limits, tree, known.name, default)
    if cls is not Config:
        yield dataclasses.replace(known, group=cls, table=table, kind=kind)
    yield from fields_of(cls, tree, dotted, f"{known.name}.", table, kind)


def describe(tree: Mapping[str, Any]) -> str:
    """Output of `--help-config`: every field of a config with its type, default, bounds and documentation.

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
        table = known.limits.get("registry") or (known.table if known.field.name == "kind" else "")
        names = f"of {', '.join(registry.table(table))}" if table else ""
        default = f"{_type_name(known.hint)} = {_default(known)}"
        head = f"{known.name}: " + ", ".join(filter(None, [default, bounds(known.limits), names]))
    lines = textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join([head, *lines])


def _default(known: KnownField) -> str:
    default, factory = known.field.default, known.field.default_factory
    if known.field.name == "kind" and known.kind:
        default = known.kind
    elif factory is not dataclasses.MISSING:
        default = factory()
    return repr(list(default) if isinstance(default, tuple) else default)


def _type_name(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " | ".join(map(repr, arguments))
    if origin is tuple:
        return f"list of {_type_name(arguments[0])}"
    if origin is dict:
        return f"table of {_type_name(arguments[1])} by name"
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("mmjax.config.fields.", "")
