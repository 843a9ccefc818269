"""Reads configs, strictly."""

import dataclasses
import difflib
import importlib.util
import json
import math
import re
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ml_collections import ConfigDict

from mmjax.config.checks import check
from mmjax.config.data_fields import DataConfig
from mmjax.config.fields import Config
from mmjax.types import UserError

INNER = ("tokenizer", "reference", "pretraining")  # configs inside of a config
OF_EACH_PART = ("source", "mixture", "weight")  # what a part of a mixture does not take from it

T = typing.TypeVar("T", bound=DataConfig)


def load_config(path_and_argument: str, overrides: Mapping[str, str] | None = None) -> Config:
    """Reads `FILE[:argument]`, calls its get_config(argument), applies overrides and returns the checked config.

    Args:
        path_and_argument: as in `configs/coco_direct.py:size=64`.
        overrides: dotted field names to values as text, as given on the command line.

    Raises:
        UserError: for anything wrong with the file, a field or a value.
    """
    path, _, argument = path_and_argument.partition(":")
    if not Path(path).is_file():
        raise UserError(f"--config: no file {path}; a config is a Python file such as configs/quickstart.py")
    spec = importlib.util.spec_from_file_location(f"config_{Path(path).stem}", path)
    if not (spec and spec.loader):
        raise UserError(f"--config: {path} is no Python file; a config is one such as configs/quickstart.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(Path(path).resolve().parent))  # configs build on each other
    try:
        spec.loader.exec_module(module)
        config_dict = module.get_config(argument)
    except UserError:
        raise
    except AttributeError as error:
        if hasattr(module, "get_config"):
            raise UserError(f"{path}: {_one_line(error)}") from error
        raise UserError(f"{path}: defines no get_config(argument); see configs/quickstart.py") from error
    except Exception as error:  # the config is the user's program; whatever it raises is theirs to read
        raise UserError(f"{path}: {type(error).__name__}: {_one_line(error)}") from error
    finally:
        sys.path.pop(0)
    if not isinstance(config_dict, ConfigDict):
        raise UserError(
            f"{path}: get_config must return an ml_collections.ConfigDict, not {type(config_dict).__name__}"
        )
    return resolve(config_dict.to_dict(), overrides or {}, default_name=Path(path).stem)


def resolve(
    config_dict: Mapping[str, Any], overrides: Mapping[str, str] | None = None, default_name: str = ""
) -> Config:
    """Turns nested plain data into a checked Config; `overrides` map dotted names to values as text."""
    tree = _copy(config_dict)
    for dotted, text in (overrides or {}).items():
        kind = _field_type(dotted)
        node = tree
        *parents, last = dotted.split(".")
        for depth, parent in enumerate(parents):
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise UserError(f"{'.'.join(parents[: depth + 1])}: must be a group of fields")
        value = _from_text(dotted, kind, text)
        if last in node and last not in OF_EACH_PART:
            _hand_on(last, node[last], value, node.get("mixture"))
        node[last] = value
    _fill_parts(tree)
    return _completed(_build(Config, tree, ""), default_name)


def _hand_on(name: str, old: Any, new: Any, parts: Any) -> None:
    """A field of a mixture that changes does so in the parts that have its value, too."""
    for part in parts.values() if isinstance(parts, dict) else ():
        if isinstance(part, dict) and part.get(name) == old:
            part[name] = new


def _fill_parts(tree: Any, prefix: str = "") -> None:
    """Gives the parts of mixtures, in a config and those inside of it, what they do not set themselves."""
    if not isinstance(tree, dict):
        return
    for name in INNER:
        _fill_parts(tree.get(name), f"{prefix}{name}.")
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
        common = {key: value for key, value in data.items() if key not in OF_EACH_PART}
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
    if not config.name:
        config = dataclasses.replace(config, name=default_name)
    config = dataclasses.replace(config, data=_completed_data(config.data, ""))
    for part in INNER:
        theirs = getattr(config, part)
        if theirs is None:
            continue
        theirs = dataclasses.replace(theirs, data=_completed_data(theirs.data, config.data.root))
        try:
            completed: dict[str, Any] = {part: _completed(theirs, f"{config.name}-{part}")}
        except UserError as error:
            raise UserError(f"{part}.{error}") from None
        config = dataclasses.replace(config, **completed)
    check(config)
    return config


def _completed_data(data: T, root: str) -> T:
    """Data, and the parts of a mixture, with what follows from other fields; `root` is for those that name none."""
    root, resize = data.root or root, data.resize or round(data.size * 256 / 224)
    parts = {name: _completed_data(part, root) for name, part in data.mixture.items()}
    return dataclasses.replace(data, root=root, resize=resize, mixture=parts)


def parse_arguments(argument: str | None, **defaults: Any) -> Any:
    """What follows the colon of `--config=FILE:size=64,tiny`, as a namespace with the given defaults.

    A bare word is a flag: its default must be a bool. Every config has the flag `tiny`.

    Raises:
        UserError: for a name that is not among the defaults, or a value of another type.
    """
    values = {"tiny": False, **defaults}
    for item in filter(None, (argument or "").split(",")):
        name, equals, text = item.partition("=")
        if name not in values:
            raise UserError(f"no config argument {name}; {_nearest(name, values) or 'known: ' + ', '.join(values)}")
        kind = type(values[name])
        if not equals and kind is not bool:
            raise UserError(f"config argument {name}: needs a value, as in {name}={values[name]}")
        values[name] = _from_text(f"config argument {name}", kind, text if equals else "true")
    return types.SimpleNamespace(**values)


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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _copy(tree: Any) -> Any:
    return {k: _copy(v) for k, v in tree.items()} if isinstance(tree, Mapping) else tree


def _nearest(name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else ""


def _groups(kind: Any) -> tuple[type, ...]:
    """The dataclasses that a field of this type may hold: one, several told apart by their `kind`, or none."""
    choices = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    choices = tuple(choice for choice in choices if choice is not types.NoneType)
    return choices if all(dataclasses.is_dataclass(choice) for choice in choices) else ()


def _member(kind: Any) -> Any:
    """The dataclass whose instances a table of names holds; None where the type is another."""
    arguments = typing.get_args(kind) if typing.get_origin(kind) is dict else ()
    return arguments[1] if arguments and dataclasses.is_dataclass(arguments[1]) else None


def _all_fields(cls: type, dotted: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field with its type; those of the members of a table by the names that `dotted` has for them."""
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        name, kind = prefix + f.name, hints[f.name]
        yield name, kind
        for group in _groups(kind):
            if not (group is Config and prefix):  # a tokenizer's config has none of its own
                yield from _all_fields(group, dotted, f"{name}.")
        if _member(kind) and dotted.startswith(f"{name}."):
            key = dotted.removeprefix(f"{name}.").partition(".")[0]
            yield from _all_fields(_member(kind), dotted, f"{name}.{key}.")


def _unknown(dotted: str) -> UserError:
    near = _nearest(dotted, dict(_all_fields(Config, dotted)))
    return UserError(f"{dotted}: no such field; " + (near or "see mmjax/config/fields.py"))


def _field_type(dotted: str) -> Any:
    """The declared type of a field; the values of a dict field are fields of their own (objective.terms.NAME)."""
    known = dict(_all_fields(Config, dotted))
    parent, _, _ = dotted.rpartition(".")
    if dotted in known:
        if _groups(known[dotted]):
            raise UserError(f"{dotted}: is a group of fields; set one of them, as in --config.{dotted}.FIELD=VALUE")
        return known[dotted]
    if typing.get_origin(known.get(parent)) is dict:
        return typing.get_args(known[parent])[1]
    raise _unknown(dotted)


def _build(cls: Any, tree: Any, prefix: str) -> Any:
    if not isinstance(tree, Mapping):
        raise UserError(f"{prefix.rstrip('.')}: must be a group of fields, not {tree!r}")
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if key not in hints:
            raise _unknown(f"{prefix}{key}")
        name = f"{prefix}{key}"
        groups = _groups(hints[key])
        if value is None and types.NoneType in typing.get_args(hints[key]):
            values[key] = None
        elif _member(hints[key]) and isinstance(value, Mapping):
            values[key] = {str(k): _build(_member(hints[key]), v, f"{name}.{k}.") for k, v in value.items()}
        elif groups:
            values[key] = _build(_chosen(name, groups, value), value, name + ".")
        else:
            values[key] = _typed(name, hints[key], value)
    return cls(**values)


def _chosen(name: str, groups: tuple[type, ...], value: Any) -> type:
    """The group whose `kind` the value names; the first where it names none."""
    if len(groups) == 1 or not isinstance(value, Mapping) or "kind" not in value:
        return groups[0]
    kinds = {group.kind: group for group in groups}  # type: ignore[attr-defined]
    if value["kind"] not in kinds:
        raise UserError(f"{name}.kind: must be one of {', '.join(kinds)}, not {value['kind']!r}")
    return kinds[value["kind"]]


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
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is float and isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name}: must be finite, not {value}")
    if type(value) is kind or (origin is types.UnionType and type(value) in arguments):
        return value
    raise UserError(f"{name}: must be {_type_name(kind)}, not {value!r}")


def _type_name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    if dataclasses.is_dataclass(kind):
        return "a group of fields"
    if typing.get_origin(kind) is tuple:
        return "a list, each item " + _type_name(typing.get_args(kind)[0])
    if typing.get_origin(kind) is dict:
        return "a table of names, each " + _type_name(typing.get_args(kind)[1])
    if typing.get_origin(kind) is types.UnionType:
        return ", ".join(map(_type_name, typing.get_args(kind)))
    return names.get(kind, str(kind))


def _from_text(name: str, kind: Any, text: str) -> Any:
    """Reads a value from the command line according to the type that the field declares."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    try:
        if origin is tuple:
            return tuple(_from_text(name, arguments[0], t.strip()) for t in text.strip("()[]").split(",") if t.strip())
        if origin is dict:
            pairs = (item.partition("=") for item in text.strip("{}").split(",") if item.strip())
            return {k.strip(): _from_text(name, arguments[1], v.strip()) for k, _, v in pairs}
        if origin is types.UnionType:  # of plain values: whatever it reads as, a text at last
            return next(value for part in (bool, int, float, str) for value in _as(name, part, text))
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if kind in (int, float):
            return kind(text.replace("_", ""))
    except (ValueError, KeyError):
        raise UserError(f"{name}: must be {_type_name(kind)}, not {text!r}") from None
    return text


def _as(name: str, kind: type, text: str) -> list[Any]:
    """The value that a text is of that type, if it is."""
    try:
        return [] if kind is bool and text in ("0", "1") else [_from_text(name, kind, text)]
    except UserError:
        return []
