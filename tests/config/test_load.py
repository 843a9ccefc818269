"""Config files and their arguments: what is read, and what is wrong with one, in one line."""

from pathlib import Path

import pytest
from messages import error_message

from mmjax.config import load_config, parse_arguments

CONFIG = """from ml_collections import ConfigDict
def get_config(argument=None):
    return ConfigDict({"train": {"steps": 1}})
"""


def test_a_config_file_is_read_with_its_argument_and_its_neighbors(tmp_path: Path) -> None:
    (tmp_path / "neighbor_of_mine.py").write_text("STEPS = 7\n")
    (tmp_path / "mine.py").write_text(
        "from ml_collections import ConfigDict\nfrom neighbor_of_mine import STEPS\n"
        "def get_config(argument):\n    return ConfigDict({'train': {'steps': STEPS}, 'data': {'root': argument}})\n"
    )
    found = load_config(f"{tmp_path}/mine.py:a=b,c:d", {"seed": "5"})
    assert (found.name, found.train.steps, found.data.root, found.seed) == ("mine", 7, "a=b,c:d", 5)


@pytest.mark.parametrize(("content", "what"), [
    ("1 +", "SyntaxError: invalid syntax"),
    ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
    ("", "defines no get_config(argument); see configs/quickstart.py"),
    ("get_config = lambda: None", "TypeError: <lambda>() takes 0 positional arguments but 1 was given"),
    ("get_config = lambda argument: {'train': {}}", "get_config must return an ml_collections.ConfigDict, not dict"),
    ("def get_config(argument): raise ValueError('two\\nlines')", "ValueError: two lines"),
    (CONFIG.replace("return", "c ="), "get_config must return an ml_collections.ConfigDict, not NoneType"),
    (CONFIG.replace("    return", "    c =") + "    return c.trian", 'Did you mean "train" instead of "trian"?'),
    (CONFIG.replace("steps", "stesp"), "did you mean train.steps?"),
])  # fmt: skip
def test_a_config_file_that_is_wrong_is_told(tmp_path: Path, content: str, what: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(content)
    assert what in error_message(load_config, str(path))


def test_a_config_file_that_is_none_is_told(tmp_path: Path) -> None:
    assert error_message(load_config, "nowhere/x.py:tiny").startswith(
        "--config: no file nowhere/x.py; a config is a Python file"
    )
    assert error_message(load_config, str(tmp_path)).startswith(f"--config: no file {tmp_path}")
    (tmp_path / "config.txt").write_text(CONFIG)
    assert "config.txt is no Python file" in error_message(load_config, str(tmp_path / "config.txt"))


def test_config_arguments() -> None:
    assert vars(parse_arguments(None, size=224)) == {"tiny": False, "size": 224}
    assert vars(parse_arguments("", size=224)) == {"tiny": False, "size": 224}
    found = parse_arguments("size=64,tiny", size=224, rate=1.0, kind="a", flip=False)
    assert (found.size, found.tiny, found.rate, found.kind, found.flip) == (64, True, 1.0, "a", False)
    assert parse_arguments("flip=yes,rate=2,kind=b", flip=False, rate=1.0, kind="a").rate == 2.0


@pytest.mark.parametrize(("argument", "what"), [
    ("sise=64", "no config argument sise; did you mean size?"),
    ("x", "no config argument x; known: tiny, size"),
    ("size", "config argument size: needs a value, as in size=224"),
    ("size=big", "config argument size: must be a whole number, not 'big'"),
    ("tiny=perhaps", "config argument tiny: must be true or false, not 'perhaps'"),
])  # fmt: skip
def test_wrong_config_arguments(argument: str, what: str) -> None:
    assert error_message(parse_arguments, argument, size=224) == what
