"""Reads config files."""

import importlib.util
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mmjax.config.fields import Config
from mmjax.config.parse import expand_home, from_text, nearest, resolve
from mmjax.types import UserError


def load_config(path_and_argument: str, overrides: Mapping[str, str] | None = None) -> Config:
    """Loads and checks the config of get_config(argument) in `FILE[:argument]`, with overrides.

    Args:
        path_and_argument: as in `configs/coco_direct.py:size=64`.
        overrides: dotted field names to values as text, as given on the command line.

    Raises:
        UserError: for anything wrong with the file, a field or a value.
    """
    name = Path(split_argument(path_and_argument)[0]).stem
    return resolve(read_config_dict(path_and_argument), overrides or {}, default_name=name)


def split_argument(path_and_argument: str) -> tuple[str, str]:
    """Splits `FILE[:argument]` at the colon behind the .py; other colons belong to the path."""
    path, found, argument = path_and_argument.partition(".py:")
    return (f"{path}.py", argument) if found else (path_and_argument, "")


def read_config_dict(path_and_argument: str) -> dict[str, Any]:
    """Loads the result of get_config(argument) in `FILE[:argument]` as unchecked nested plain data.

    Raises:
        UserError: for anything wrong with the file.
    """
    path, argument = split_argument(path_and_argument)
    path = expand_home(path)
    spec = importlib.util.spec_from_file_location(f"config_{Path(path).stem}", path)
    if not (spec and spec.loader and Path(path).is_file()):
        wrong = f"{path} is no Python file" if Path(path).is_file() else f"no file {path}"
        raise UserError(f"--config: {wrong}; a config is a Python file such as configs/quickstart.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(Path(path).resolve().parent))  # configs import each other
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"{path}: defines no get_config(argument); see configs/quickstart.py")
        config_dict = module.get_config(argument)
        tree: dict[str, Any] = config_dict.to_dict() if isinstance(config_dict, ConfigDict) else {}
    except UserError:
        raise
    except Exception as error:  # the user's program may raise anything
        raise UserError(f"{path}: {type(error).__name__}: {' '.join(str(error).split())}") from error
    finally:
        sys.path.pop(0)
    if not isinstance(config_dict, ConfigDict):
        kind = type(config_dict).__name__
        raise UserError(f"{path}: get_config must return an ml_collections.ConfigDict, not {kind}")
    return tree


def parse_arguments(argument: str | None, **defaults: Any) -> Any:
    """Parses the argument of `--config=FILE:size=64,tiny` into a namespace, with defaults.

    A bare word is a flag: its default must be a bool. Every config has the flag `tiny`.

    Raises:
        UserError: for a name that is not among the defaults, or a value of another type.
    """
    values = {"tiny": False, **defaults}
    for item in filter(None, (argument or "").split(",")):
        name, equals, text = item.partition("=")
        if name not in values:
            raise UserError(f"no config argument {name}; {nearest(name, values) or 'known: ' + ', '.join(values)}")
        kind = type(values[name])
        if not equals and kind is not bool:
            raise UserError(f"config argument {name}: needs a value, as in {name}={values[name]}")
        values[name] = from_text(f"config argument {name}", kind, text if equals else "true")
    return types.SimpleNamespace(**values)
