"""Every field that a config may have: which there are depends on the kinds of things that it names."""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from mmjax import registry
from mmjax.config.fields import Config
from mmjax.types import UserError


def group_of(hint: Any) -> type | None:
    """The config class that a field of this type holds, or None."""
    choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    found = [choice for choice in choices if isinstance(choice, type) and dataclasses.is_dataclass(choice)]
    return found[0] if found else None


def member_of(hint: Any) -> type | None:
    """The config class whose instances a table of names holds, or None."""
    arguments = typing.get_args(hint) if typing.get_origin(hint) is dict else ()
    return group_of(arguments[1]) if arguments else None


def _kind(limits: Mapping[str, Any], value: Any, name: str, default: str = "") -> str:
    """The name in a table that a group of fields has as its `kind`."""
    given = value.get("kind") if isinstance(value, Mapping) else None
    kind = given or default or limits["kind"]
    if not isinstance(kind, str):
        raise UserError(f"{name}.kind: must be a text, not {kind!r}")
    return kind


def chosen(cls: type, limits: Mapping[str, Any], value: Any, name: str, default: str = "") -> type:
    """The class of a group: where a table has several, the one that its `kind` names."""
    if "registry" not in limits:
        return cls
    found: type = registry.find(limits["registry"], _kind(limits, value, name, default), f"{name}.kind").config
    return found


@dataclasses.dataclass(frozen=True)
class KnownField:
    """A field that a config may have.

    Attributes:
        name: dotted, from the whole config on.
        hint: its type.
        field: as its class declares it.
        owner: the config class that it is a field of.
        group: the config class of a group of fields, else None.
        table, kind: of a group that is looked up in a table of mmjax.registry, and of the fields in it: which one, and
            its name there.
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
    """Every field that a config may have, for the kinds of things that the tree names.

    Args:
        dotted: a field whose parents count as there, also where the tree lacks them.
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
                own = below.get(key) if isinstance(below, Mapping) else None
                yield from _group_fields(member, KnownField(f"{name}.{key}", member, f, cls), own, dotted, key)
        elif group and (group is not Config or dotted.startswith(f"{name}.")):  # else configs in configs without end
            yield from _group_fields(group, KnownField(name, hint, f, cls), below, dotted, "")


def _group_fields(group: type, known: KnownField, tree: Any, dotted: str, default: str) -> Iterator[KnownField]:
    """A group, then the fields in it; `default` is its kind where nothing else says it."""
    table = known.limits.get("registry", "")
    kind = _kind(known.limits, tree, known.name, default) if table else ""
    found = chosen(group, known.limits, tree, known.name, default)
    if found is not Config:
        yield dataclasses.replace(known, group=found, table=table, kind=kind)
    yield from fields_of(found, tree, dotted, f"{known.name}.", table, kind)
