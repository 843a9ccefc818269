"""From nested plain data to a checked Config, strictly."""

import dataclasses
import difflib
import json
import math
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from mmjax import registry
from mmjax.config.checks import check
from mmjax.config.data_fields import DataConfig
from mmjax.config.fields import Config
from mmjax.config.known_fields import chosen, fields_of, group_of, member_of
from mmjax.config.schema import check_bounds
from mmjax.types import UserError

PER_COMPONENT = ("source", "mixture", "weight")  # what a component of a mixture does not take from it

T = typing.TypeVar("T", bound=DataConfig)


def resolve(
    config_dict: Mapping[str, Any],
    overrides: Mapping[str, str] | None = None,
    default_name: str = "",
    plugins: Iterable[str] | None = None,
) -> Config:
    """Turns nested plain data into a checked Config.

    Args:
        overrides: dotted field names to values as text, as given on the command line.
        default_name: the config's name where it has none.
        plugins: packages that dotted paths of config_dict may lead into; None: any, since the user wrote it.

    Raises:
        UserError: for the first field that is unknown, of the wrong type, or impossible.
    """
    if plugins is not None:
        registry.check_plugins(config_dict, plugins)
    tree = _copy(config_dict)
    _write_out_components(tree)
    # What decides which fields there are comes first.
    for dotted, text in sorted((overrides or {}).items(), key=lambda item: not item[0].endswith("kind")):
        if re.fullmatch(r"(.+\.)?components\.\w+", dotted):
            dotted += ".path"
        node = tree
        *parents, last = dotted.split(".")
        for depth, parent in enumerate(parents):
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise UserError(f"{'.'.join(parents[: depth + 1])}: must be a group of fields")
        old, node[last] = node.get(last, dataclasses.MISSING), text  # a kind says which fields there are
        node[last] = value = from_text(dotted, _field_type(dotted, tree)[0], text)
        if old is not dataclasses.MISSING and last not in PER_COMPONENT:
            _hand_on(last, old, value, node.get("mixture"))
    _fill_mixtures(tree)
    return _completed(_build(Config, tree, ""), default_name)


def _hand_on(name: str, old: Any, new: Any, parts: Any) -> None:
    """A field of a mixture that changes does so in the parts that have its value, too."""
    for part in parts.values() if isinstance(parts, dict) else ():
        if isinstance(part, dict) and part.get(name) == old:
            part[name] = new


def _inner(tree: Any) -> Iterator[tuple[str, Any]]:
    """The configs inside of a config as plain data, each with its name."""
    if isinstance(tree, Mapping):
        if "pretraining" in tree:
            yield "pretraining", tree["pretraining"]
        components = tree.get("components")
        for name, component in components.items() if isinstance(components, Mapping) else ():
            if isinstance(component, Mapping):
                yield f"components.{name}.config", component.get("config")


def _write_out_components(tree: Any) -> None:
    """Replaces components that are given as a path or as a config alone by a group of both."""
    components = tree.get("components") if isinstance(tree, dict) else None
    if isinstance(components, dict):
        for name, given in components.items():
            if isinstance(given, str):
                components[name] = {"path": given}
            elif isinstance(given, dict) and not set(given) <= {"path", "config"}:
                components[name] = {"config": given}
    for _, inner in _inner(tree):
        _write_out_components(inner)


def _fill_mixtures(tree: Any, prefix: str = "") -> None:
    """Gives the parts of mixtures, in a config and those inside of it, what they do not set themselves."""
    if not isinstance(tree, dict):
        return
    for name, inner in _inner(tree):
        _fill_mixtures(inner, f"{prefix}{name}.")
    data = tree.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("mixture"), dict):
        return
    data["mixture"] = parts = data.pop("mixture")  # last, so that what is wrong is told of the mixture first
    for name, part in parts.items():
        if not re.fullmatch(r"\w[\w-]*", str(name)):
            raise UserError(f"{prefix}data.mixture: {name!r} is no name for a part; take letters, digits, _ and -")
        if not isinstance(part, dict):
            continue  # told as a wrong type
        if "source" not in part:
            raise UserError(f"{prefix}data.mixture.{name}.source: must be set, as in coco_folder")
        common = {key: value for key, value in data.items() if key not in PER_COMPONENT}
        parts[name] = _merged(common, part)


def _merged(common: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Both, where they are groups merged, and otherwise as in `own`."""
    merged = dict(common)
    for key, value in own.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _completed(config: Config, default_name: str) -> Config:
    """The config, and those inside of it, checked and with what follows from other fields filled in."""
    name = config.name or default_name
    config = dataclasses.replace(config, name=name, data=_completed_data(config.data, ""))
    if config.pretraining is not None:
        inner = _completed_inner(config.pretraining, config, "pretraining", f"{name}-pretraining")
        config = dataclasses.replace(config, pretraining=inner)
    components = dict(config.components)
    for key, component in components.items():
        if component.config is not None:
            inner = _completed_inner(component.config, config, f"components.{key}.config", f"{name}-{key}")
            components[key] = dataclasses.replace(component, config=inner)
    config = dataclasses.replace(config, components=components)
    check(config)
    return config


def _completed_inner(inner: Config, outer: Config, field: str, default_name: str) -> Config:
    """A config inside of another, which hands on the folder of its data."""
    inner = dataclasses.replace(inner, data=_completed_data(inner.data, outer.data.root))
    try:
        return _completed(inner, default_name)
    except UserError as error:
        raise UserError(f"{field}.{error}") from None


def _completed_data(data: T, root: str) -> T:
    """Data, and the parts of a mixture, with what follows from other fields; `root` is for those that name none."""
    root, resize = data.root or root, data.resize or round(data.size * 256 / 224)
    parts = {name: _completed_data(part, root) for name, part in data.mixture.items()}
    return dataclasses.replace(data, root=root, resize=resize, mixture=parts)


def to_dict(config: Any) -> dict[str, Any]:
    """The config as nested plain data that JSON can hold; `resolve` brings it back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields (dotted name, old value, new value) for each field in which two configs differ."""
    for key in sorted(set(old) | set(new)):
        was, now = old.get(key), new.get(key)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            yield from differences(was, now, f"{prefix}{key}.")
        elif was != now:
            yield f"{prefix}{key}", was, now


def _copy(tree: Any) -> Any:
    return {k: _copy(v) for k, v in tree.items()} if isinstance(tree, Mapping) else tree


def nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    """ "did you mean ...?" where a known name is much alike, else ""."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else ""


def _unknown(name: str, known: Iterable[str]) -> UserError:
    near = nearest(name, list(known))
    return UserError(
        f"{name}: no such field; {near}{' ' if near else ''}mmjax train --config=FILE --help-config lists all fields"
    )


def _field_type(dotted: str, tree: Any) -> tuple[Any, Mapping[str, Any]]:
    """The declared type and limits of a field; a table of plain values has a field a name (data.options.NAME)."""
    known = {each.name: each for each in fields_of(Config, tree, dotted)}
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
            values[key] = {str(k): _built(member, limit, v, f"{name}.{k}", str(k)) for k, v in value.items()}
        elif group := group_of(hint):
            values[key] = _built(group, limit, value, name)
        else:
            values[key] = _typed(name, hint, value)
            check_bounds(name, values[key], limit)
            if "registry" in limit:
                assert key in registry.NAMED_BY, f"{name}: check_plugins would not see its dotted paths"
                names = values[key] if isinstance(values[key], tuple) else (values[key],)
                for each in names:
                    registry.find(limit["registry"], each, name)
    return cls(**values)


def _built(cls: type, limits: Mapping[str, Any], value: Any, name: str, default: str = "") -> Any:
    """A group of fields; where a table has several classes for it, that of its `kind`."""
    found = chosen(cls, limits, value, name, default)
    if "registry" in limits and isinstance(value, Mapping):
        value = {"kind": default or limits.get("kind", "")} | dict(value)
    return _build(found, value, f"{name}.")


def _typed(name: str, kind: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if value not in arguments:
            raise UserError(f"{name}: must be one of {', '.join(map(str, arguments))}, not {value!r}")
        return value
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_typed(f"{name}[{i}]", arguments[0], v) for i, v in enumerate(value))
    if origin is dict and isinstance(value, Mapping):
        return {str(k): _typed(f"{name}.{k}", arguments[1], v) for k, v in value.items()}
    if origin is types.UnionType and type(value) in arguments:
        kind, origin = type(value), None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is float and isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name}: must be finite, not {value}")
    if origin is None and type(value) is kind:
        return value
    raise UserError(f"{name}: must be {_type_name(kind)}, not {value!r}")


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
    """Reads a value from the command line according to the type that the field declares."""
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
    """A value as JSON writes it, where nothing declares its type; anything else is a text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, (int, float)) else text  # a bool is an int
