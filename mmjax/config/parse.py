"""Parses nested plain data into a checked Config."""

import dataclasses
import difflib
import json
import os
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from mmjax import registry
from mmjax.config.checks import check
from mmjax.config.fields import Config
from mmjax.config.known_fields import config_class, fields_of, group_of, member_of
from mmjax.config.schema import check_bounds
from mmjax.types import UserError

MAX_FLOAT = (2 - 2**-23) * 2.0**127  # of float32, in which the numbers are used
MAX_DEPTH = 32  # of groups of fields in each other
PER_COMPONENT = ("source", "mixture", "weight")  # fields that a component does not inherit from its mixture


def resolve(
    config_dict: Mapping[str, Any],
    overrides: Mapping[str, str] | None = None,
    default_name: str = "",
    plugins: Iterable[str] | None = None,
) -> Config:
    """Parses nested plain data into a checked Config.

    Args:
        overrides: dotted field names to values as text, as given on the command line.
        default_name: name of a config without one.
        plugins: packages that dotted paths of config_dict may import; None: any.

    Raises:
        UserError: for the first unknown field or invalid value.
    """
    _check_plain(config_dict)
    if plugins is not None:
        registry.check_plugins(config_dict, plugins)
    tree = _copied(config_dict)
    _expand_components(tree)
    # Kinds first: they decide which fields exist.
    for dotted, text in sorted((overrides or {}).items(), key=lambda item: not item[0].endswith("kind")):
        if re.fullmatch(r"(.+\.)?components\.\w+", dotted):
            dotted += ".path"
        node = tree
        *parents, last = dotted.split(".")
        for depth, parent in enumerate(parents):
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise UserError(f"{'.'.join(parents[: depth + 1])}: must be a group of fields")
        old, node[last] = node.get(last, dataclasses.MISSING), text  # _field_type reads kinds from the tree
        node[last] = value = from_text(dotted, _field_type(dotted, tree)[0], text)
        if old is not dataclasses.MISSING and last not in PER_COMPONENT:
            for part in _dict(node, "mixture").values():  # the components of a mixture share its value
                if isinstance(part, dict) and part.get(last) == old:
                    part[last] = value
    _fill(tree, default_name)
    config: Config = _build(Config, tree, "")
    check(config)
    return config


def _copied(tree: Any) -> Any:
    """A copy whose groups are all its own: deepcopy keeps those that are shared, and overrides would change all."""
    if isinstance(tree, Mapping):
        return {key: _copied(value) for key, value in tree.items()}
    return [_copied(value) for value in tree] if isinstance(tree, list) else tree


def _check_plain(tree: Any, name: str = "", depth: int = MAX_DEPTH) -> None:
    """Raises UserError for what no field takes: nested too deep, or an integer beyond 64 bits."""
    if isinstance(tree, int) and abs(tree) >= 2**63:
        raise UserError(f"{name}: must be below 2 ** 63 in magnitude")
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    for key, value in items:
        if not depth:
            raise UserError(f"{name}: nested more than {MAX_DEPTH} deep")
        _check_plain(value, f"{name}.{key}".lstrip("."), depth - 1)


def _dict(tree: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A group of fields, empty where there is none; _build reports what is no group."""
    value = tree.get(name)
    return value if isinstance(value, dict) else {}


def _inner(tree: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The nested configs of a config as plain data, by the field that they are in."""
    components = {name: each for name, each in _dict(tree, "components").items() if isinstance(each, dict)}
    found = {f"components.{name}.config": _dict(each, "config") for name, each in components.items()}
    return {name: inner for name, inner in (found | {"pretraining": _dict(tree, "pretraining")}).items() if inner}


def _expand_components(tree: dict[str, Any]) -> None:
    """Expands components given as a path or a config to {"path": ...} or {"config": ...}."""
    components = _dict(tree, "components")
    for name, value in components.items():
        if isinstance(value, str):
            components[name] = {"path": value}
        elif isinstance(value, dict) and not set(value) <= {"path", "config", "pretrained"}:
            components[name] = {"config": value}
    for inner in _inner(tree).values():
        _expand_components(inner)


def _fill(tree: dict[str, Any], name: str, root: str = "", prefix: str = "") -> None:
    """Fills in what a config inherits: its name, data.root, and the fields of the components of its mixture.

    Args:
        name, root: of a config without.
        prefix: of its fields.
    """
    name = _inherit(tree, "name", name)
    data = tree.setdefault("data", {})
    if isinstance(data, dict):
        root = _inherit(data, "root", root)
        _fill_mixture(data, prefix)
    for field, inner in _inner(tree).items():
        _fill(inner, f"{name}-{field.removeprefix('components.').removesuffix('.config')}", root, f"{prefix}{field}.")


def _inherit(group: dict[str, Any], name: str, value: Any) -> Any:
    """The value of a field, after setting it to the given one where it is empty."""
    if group.get(name, "") == "":
        group[name] = value
    return group[name]


def _fill_mixture(data: dict[str, Any], prefix: str) -> None:
    """Fills in the fields that the components of a mixture inherit."""
    parts = _dict(data, "mixture")
    if not parts:
        return
    data["mixture"] = data.pop("mixture")  # last, so that errors name the mixture first
    for name, part in parts.items():
        if not re.fullmatch(r"\w[\w-]*", str(name)):
            raise UserError(f"{prefix}data.mixture: {name!r} is no name for a part; take letters, digits, _ and -")
        if not isinstance(part, dict):
            continue  # _build reports the type
        if "source" not in part:
            raise UserError(f"{prefix}data.mixture.{name}.source: must be set, as in coco_folder")
        common = {key: value for key, value in data.items() if key not in PER_COMPONENT}
        parts[name] = _merge(common, part)
        _inherit(parts[name], "root", data["root"])


def _merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Merges nested dicts."""
    merged = dict(base)
    for key, value in overrides.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def to_dict(config: Any) -> dict[str, Any]:
    """Converts a config to nested plain data for JSON; `resolve` is the inverse."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields (dotted name, old value, new value) for each difference of two configs."""
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            yield from differences(before, after, f"{prefix}{key}.")
        elif before != after:
            yield f"{prefix}{key}", before, after


def nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """ "did you mean ...?" for a similar known name, else ""."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else ""


def _unknown(name: str, known: Iterable[str]) -> UserError:
    near = nearest(name, list(known))
    return UserError(
        f"{name}: no such field; {near}{' ' if near else ''}mmjax train --config=FILE --help-config lists all fields"
    )


def _field_type(dotted: str, tree: Any) -> tuple[Any, Mapping[str, Any]]:
    """The declared type and limits of a field, or of an entry of a dict of plain values (data.options.NAME)."""
    known = {field.name: field for field in fields_of(Config, tree, dotted)}
    parent, _, _ = dotted.rpartition(".")
    if dotted in known:
        if known[dotted].group or group_of(known[dotted].hint):
            raise UserError(f"{dotted}: is a group of fields; set one of them, as in --config.{dotted}.FIELD=VALUE")
        return known[dotted].hint, known[dotted].limits
    if parent in known and typing.get_origin(known[parent].hint) is dict and not member_of(known[parent].hint):
        return typing.get_args(known[parent].hint)[1], {}
    raise _unknown(dotted, known)


def _build(cls: Any, tree: Any, prefix: str) -> Any:
    if not isinstance(tree, Mapping):
        raise UserError(f"{prefix.rstrip('.')}: must be a group of fields, not {tree!r}")
    hints = typing.get_type_hints(cls)
    limits = {f.name: f.metadata for f in dataclasses.fields(cls)}
    values: dict[str, Any] = {}
    required = {name: limit.get("initial", {}) for name, limit in limits.items() if {"kind", "initial"} & limit.keys()}
    for key, value in (required | dict(tree)).items():
        name = f"{prefix}{key}"
        if key not in hints:
            raise _unknown(name, [f"{prefix}{field}" for field in hints])
        hint, limit = hints[key], limits[key]
        if value is None and types.NoneType in typing.get_args(hint):
            values[key] = None
        elif (member := member_of(hint)) and isinstance(value, Mapping):
            values[key] = {str(k): _build_group(member, limit, v, f"{name}.{k}", str(k)) for k, v in value.items()}
        elif group := group_of(hint):
            values[key] = _build_group(group, limit, value, name)
        else:
            values[key] = _convert(name, hint, value)
            check_bounds(name, values[key], limit)
            if "registry" in limit:
                assert key in registry.NAMED_BY, f"{name}: check_plugins would not see its dotted paths"
                names = values[key] if isinstance(values[key], tuple) else (values[key],)
                for entry in names:
                    registry.find(limit["registry"], entry, name)
    return cls(**values)


def _build_group(cls: type, limits: Mapping[str, Any], value: Any, name: str, default: str = "") -> Any:
    """Builds a group of fields, of the class of its `kind` where it is registered."""
    cls = config_class(cls, limits, value, name, default)
    if "registry" in limits and isinstance(value, Mapping):
        value = {"kind": default or limits.get("kind", "")} | dict(value)
    return _build(cls, value, f"{name}.")


def _convert(name: str, kind: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"{name}: must be one of {', '.join(map(str, arguments))}, not {value!r}")
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_convert(f"{name}[{i}]", arguments[0], v) for i, v in enumerate(value))
    if origin is dict and isinstance(value, Mapping):
        return {str(k): _convert(f"{name}.{k}", arguments[1], v) for k, v in value.items()}
    if origin is types.UnionType and type(value) in arguments:
        kind, origin = type(value), None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is float and isinstance(value, float) and not abs(value) <= MAX_FLOAT:
        raise UserError(f"{name}: must be finite in float32, not {value}")
    if kind is Any:
        return value
    if origin is None and type(value) is kind:
        return expand_home(value) if kind is str else value  # no text but a path begins with ~
    raise UserError(f"{name}: must be {_type_name(kind)}, not {value!r}")


def expand_home(path: str) -> str:
    """A path with the home folder for ~; raises UserError for an unknown user without HOME, as in a container."""
    expanded = os.path.expanduser(path)
    if expanded == path and (path == "~" or path.startswith("~/")):
        raise UserError(f"{path}: there is no home folder; set HOME, or give the whole path")
    return expanded


def _type_name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    if typing.get_origin(kind) is types.UnionType:
        return " or ".join(map(_type_name, typing.get_args(kind)))
    if dataclasses.is_dataclass(kind):
        return "a group of fields"
    if typing.get_origin(kind) is tuple:
        return "a list, each item " + _type_name(typing.get_args(kind)[0])
    if typing.get_origin(kind) is dict:
        return "a table of names, each " + _type_name(typing.get_args(kind)[1])
    return names.get(kind, str(kind))


def from_text(name: str, kind: Any, text: str) -> Any:
    """Parses a value of the command line as the declared type of a field."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    try:
        if origin is tuple:
            return tuple(from_text(name, arguments[0], t.strip()) for t in text.strip("()[]").split(",") if t.strip())
        if origin is dict:
            pairs = (item.partition("=") for item in text.strip("{}").split(",") if item.strip())
            return {k.strip(): from_text(name, arguments[1], v.strip()) for k, _, v in pairs}
        if origin is types.UnionType:
            return _plain(text)
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if kind in (int, float):
            return kind(text.replace("_", ""))
    except (ValueError, KeyError):
        raise UserError(f"{name}: must be {_type_name(kind)}, not {text!r}") from None
    return text


def _plain(text: str) -> str | int | float | bool:
    """Parses a value without a declared type: a JSON number or bool, else a string."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, (int, float)) else text  # a bool is an int
