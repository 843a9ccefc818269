"""Configs are read strictly: whatever is wrong is told in one line, before anything is opened."""

import dataclasses
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmjax import config
from mmjax.config import Config, load_config, parse_arguments, resolve, to_dict
from mmjax.data.sources import SOURCES
from mmjax.engine import setup
from mmjax.types import UserError

BASE = {"train": {"steps": 1}}
CONFIG = """from ml_collections import ConfigDict
def get_config(argument=None):
    return ConfigDict({"train": {"steps": 1}})
"""


def told(call: Any, *arguments: Any, **named: Any) -> str:
    """The message of the UserError that the call raises, which must be one line."""
    with pytest.raises(UserError) as error:
        call(*arguments, **named)
    message = str(error.value)
    assert message and "\n" not in message
    return message


def leaves(cls: type, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, type, default) of each field, by dataclasses alone."""
    for f in dataclasses.fields(cls):
        kind = typing.get_type_hints(cls)[f.name]
        if dataclasses.is_dataclass(kind):
            yield from leaves(kind, f"{prefix}{f.name}.")
        else:
            yield prefix + f.name, kind, f.default if f.default is not dataclasses.MISSING else f.default_factory()


LEAVES = {name: (kind, default) for name, kind, default in leaves(Config)}


def nested(dotted: str, value: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {"train": {"steps": 1}}
    node = tree
    *parents, last = dotted.split(".")
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = value
    return tree


def value_at(config_dict: Config, dotted: str) -> Any:
    for part in dotted.split("."):
        config_dict = config_dict[part] if isinstance(config_dict, dict) else getattr(config_dict, part)
    return config_dict


@pytest.mark.parametrize(("name", "near"), [
    ("model.vison_layers", "model.vision_layers"),
    ("model.widht", "model.width"),
    ("train.step", "train.steps"),
    ("optimizer.learningrate", "optimizer.learning_rate"),
    ("data.scenes.example", "data.scenes.examples"),
    ("modle.width", "model.width"),
    ("sed", "seed"),
])  # fmt: skip
def test_an_unknown_field_is_told_with_the_nearest(name: str, near: str) -> None:
    expected = f"{name}: no such field; did you mean {near}?"
    assert told(resolve, BASE, {name: "1"}) == expected
    in_config = told(resolve, nested(name, 1))
    assert in_config == (expected if name != "modle.width" else "modle: no such field; did you mean model?")


def test_an_unknown_field_near_to_nothing() -> None:
    assert told(resolve, BASE, {"xyzzy": "1"}) == "xyzzy: no such field; see mmjax/config/fields.py"


@pytest.mark.parametrize(("name", "value", "what"), [
    ("model.width", "128", "a whole number, not '128'"),
    ("model.width", 12.0, "a whole number, not 12.0"),
    ("model.width", True, "a whole number, not True"),
    ("model.reference", 1, "true or false, not 1"),
    ("optimizer.grad_clip_norm", "1", "a number, not '1'"),
    ("optimizer.grad_clip_norm", False, "a number, not False"),
    ("data.root", None, "a text, not None"),
    ("data.root", Path("x"), "a text, not PosixPath('x')"),
    ("model.decoder_widths", 16, "a list, each item a whole number, not 16"),
    ("objective.terms", ["a"], "a table of names, each a number, not ['a']"),
    ("model", 3, "a group of fields, not 3"),
    ("model.dtype", "float16", "one of float32, bfloat16, not 'float16'"),
    ("data.source", ["scenes"], "a text, not ['scenes']"),
    ("optimizer.grad_clip_norm", float("nan"), "finite, not nan"),
    ("optimizer.learning_rate", float("inf"), "finite, not inf"),
])  # fmt: skip
def test_a_wrong_type_is_told(name: str, value: Any, what: str) -> None:
    assert told(resolve, nested(name, value)) == f"{name}: must be {what}"


def test_a_wrong_item_is_told_with_its_place() -> None:
    message = told(resolve, nested("model.decoder_widths", [16, "8"]))
    assert message == "model.decoder_widths[1]: must be a whole number, not '8'"
    message = told(resolve, nested("objective.terms", {"mean_squared_error": "x"}))
    assert message == "objective.terms.mean_squared_error: must be a number, not 'x'"


@pytest.mark.parametrize(("overrides", "what"), [
    ({"model.heads": "3"}, "model.heads: 3 does not divide model.width, 128"),
    ({"model.width": "6", "model.heads": "3"}, "model.width: must be a multiple of 4"),
    ({"model.width": "0"}, "model.width: must be above 0, not 0"),
    ({"model.text_layers": "-1"}, "model.text_layers: must be above 0, not -1"),
    ({"model.decoder_widths": "()"}, "model.decoder_widths: needs at least one width"),
    ({"model.decoder_widths": "16,0"}, "model.decoder_widths: needs at least one width, each above 0"),
    ({"data.size": "33"}, "data.size: must be a multiple of 4,"),
    ({"data.size": "28"}, "data.size: scenes are drawn from 32 pixels up, not 28"),
    ({"data.resize": "31"}, "data.resize: 31 is smaller than data.size, 32"),
    ({"data.source": "coco_folder"}, "data.root: coco_folder needs the folder of the data set"),
    ({"data.source": "coco_tfds", "data.root": "/x", "data.frames": "5"}, "data.frames: coco_tfds "),
    ({"data.frames": "5"}, "data.frames: a direct generator draws images, not clips of 5"),
    ({"train.skip_grad_spikes": "0.5"}, "train.skip_grad_spikes: must be above 1, or 0 to skip none, not 0.5"),
    ({"train.batch": "-4"}, "train.batch: must be above 0, not -4"),
    ({"train.steps": "0"}, "train.steps, train.epochs: set one of the two above 0"),
    ({"train.epochs": "2"}, "train.steps, train.epochs: set one of the two above 0"),
    ({"optimizer.grad_accum_steps": "3"}, "optimizer.grad_accum_steps: 3 does not divide train.batch, 64"),
    ({"optimizer.learning_rate": "0"}, "optimizer.learning_rate: must be above 0"),
    ({"optimizer.ema_decay": "1"}, "optimizer.ema_decay: must be from 0 to below 1"),
    ({"objective.reference_dropout": "1.5"}, "objective.reference_dropout: must be from 0 to 1"),
    ({"objective.reference_dropout": "0.5", "model.reference": "false"}, "there is no reference to drop"),
    ({"text.vocabulary": "299"}, "text.vocabulary: must be at least 300"),
    ({"mesh.data": "-1", "mesh.model": "-1"}, "mesh: each axis must be above 0, and at most one -1"),
    ({"mesh.data": "0"}, "mesh: each axis must be above 0"),
])  # fmt: skip
def test_impossible_sizes_are_told(overrides: dict[str, str], what: str) -> None:
    assert what in told(resolve, BASE, overrides)


@pytest.mark.parametrize(("name", "text", "value"), [
    ("model.width", "1_024", 1024),
    ("model.width", " 64 ", 64),
    ("optimizer.learning_rate", "3e-4", 3e-4),
    ("optimizer.grad_clip_norm", "2", 2.0),
    ("model.reference", "False", False),
    ("model.reference", "1", True),
    ("model.reference", "yes", True),
    ("name", "mine=yours, 1", "mine=yours, 1"),
    ("data.root", "", ""),
    ("model.dtype", "bfloat16", "bfloat16"),
    ("model.decoder_widths", "(16, 8)", (16, 8)),
    ("model.decoder_widths", "[16]", (16,)),
    ("model.decoder_widths", "16,8,", (16, 8)),
    ("evaluate.evaluators", "losses,samples", ("losses", "samples")),
    ("evaluate.evaluators", "", ()),
    ("objective.terms", "{mean_squared_error=1, mean_absolute_error=0.5}",
     {"mean_squared_error": 1.0, "mean_absolute_error": 0.5}),
    ("objective.terms.mean_absolute_error", "2", 2.0),
    ("seed", "-7", -7),
])  # fmt: skip
def test_values_of_the_command_line(name: str, text: str, value: Any) -> None:
    found = value_at(resolve(BASE, {name: text}), name)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(("name", "text", "what"), [
    ("model.width", "64.0", "a whole number, not '64.0'"),
    ("model.width", "", "a whole number, not ''"),
    ("optimizer.grad_clip_norm", "big", "a number, not 'big'"),
    ("optimizer.grad_clip_norm", "nan", "finite, not nan"),
    ("model.reference", "maybe", "true or false, not 'maybe'"),
    ("model.dtype", "float64", "one of float32, bfloat16, not 'float64'"),
    ("model.decoder_widths", "16,x", "a whole number, not 'x'"),
    ("objective.terms", "mean_squared_error", "a number, not ''"),
])  # fmt: skip
def test_wrong_values_of_the_command_line(name: str, text: str, what: str) -> None:
    assert told(resolve, BASE, {name: text}) == f"{name}: must be {what}"


def test_a_group_cannot_be_set_from_the_command_line() -> None:
    assert told(resolve, BASE, {"model": "3"}).startswith("model: is a group of fields; set one of them")


def test_an_override_adds_a_term_to_those_of_the_config_and_leaves_the_config_alone() -> None:
    config_dict = {"objective": {"terms": {"mean_squared_error": 1.0}}, **BASE}
    found = resolve(config_dict, {"objective.terms.mean_absolute_error": "2"})
    assert found.objective.terms == {"mean_squared_error": 1.0, "mean_absolute_error": 2.0}
    assert config_dict["objective"] == {"terms": {"mean_squared_error": 1.0}}


def other_values(kind: Any, default: Any) -> st.SearchStrategy[Any]:
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(typing.get_args(kind))
    if kind is bool:
        return st.booleans()
    if kind is int:
        return st.integers(-3, 2**40)
    if kind is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    if kind is str:
        return st.text()
    if isinstance(default, tuple):
        return st.lists(other_values(typing.get_args(kind)[0], None), max_size=3)
    return st.dictionaries(st.text(min_size=1), other_values(float, None), max_size=3)


@given(st.data())
def test_every_config_that_resolves_comes_back_from_json(data: st.DataObject) -> None:
    config_dict: dict[str, Any] = {"train": {"steps": 1}}
    for name in data.draw(st.lists(st.sampled_from(sorted(LEAVES)), max_size=4)):
        node = config_dict
        *parents, last = name.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        known = st.sampled_from([*SOURCES, "my_package.my_file:NAME"])
        node[last] = data.draw(known if name == "data.source" else other_values(*LEAVES[name]), label=name)
    try:
        resolved = resolve(config_dict)
    except UserError as error:
        assert "\n" not in str(error) and str(error).partition(":")[0].partition("[")[0]
        return
    text = json.dumps(to_dict(resolved), allow_nan=False)
    assert resolve(json.loads(text)) == resolved
    assert hash(resolved.data) == hash(resolve(json.loads(text)).data)


@given(st.data())
def test_a_value_means_the_same_in_a_config_and_on_the_command_line(data: st.DataObject) -> None:
    plain = sorted(name for name, (kind, _) in LEAVES.items() if kind in (int, float, bool))
    name = data.draw(st.sampled_from(plain))
    value = data.draw(other_values(*LEAVES[name]))

    def outcome(*arguments: Any) -> Config | str:
        try:
            return resolve(*arguments)
        except UserError as error:
            return str(error)

    assert outcome(nested(name, value)) == outcome(BASE, {name: repr(value)})


def test_the_defaults_stand_where_the_config_says_nothing() -> None:
    found = resolve(BASE)
    changed = {"train.steps", "data.resize"}
    assert {name: value_at(found, name) for name in LEAVES if name not in changed} == {
        name: default for name, (_, default) in LEAVES.items() if name not in changed
    }


@pytest.mark.parametrize(("size", "resize"), [(224, 256), (32, 37), (64, 73), (448, 512)])
def test_the_short_side_before_the_crop_follows_from_the_size(size: int, resize: int) -> None:
    assert resolve(BASE, {"data.size": str(size)}).data.resize == resize
    assert resolve(BASE, {"data.size": str(size), "data.resize": "512"}).data.resize == 512


def test_names() -> None:
    assert resolve(BASE, default_name="file").name == "file"
    assert resolve(BASE, {"name": "mine"}, default_name="file").name == "mine"


def test_differences_name_each_field() -> None:
    one, other = (to_dict(resolve(BASE, over)) for over in ({}, {"model.width": "64", "objective.terms": "a=1"}))
    assert list(config.differences(one, other)) == [
        ("model.width", 128, 64),
        ("objective.terms.a", None, 1.0),
        ("objective.terms.mean_squared_error", 1.0, None),
    ]


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
    assert what in told(load_config, str(path))


def test_a_config_file_that_is_none_is_told(tmp_path: Path) -> None:
    assert told(load_config, "nowhere/x.py:tiny").startswith(
        "--config: no file nowhere/x.py; a config is a Python file"
    )
    assert told(load_config, str(tmp_path)).startswith(f"--config: no file {tmp_path}")
    (tmp_path / "config.txt").write_text(CONFIG)
    assert "config.txt is no Python file" in told(load_config, str(tmp_path / "config.txt"))


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
    assert told(parse_arguments, argument, size=224) == what


@pytest.mark.parametrize(("overrides", "what"), [
    ({"evaluate.evaluators": "losses,scenes", "data.source": "coco_folder", "data.root": "/nowhere"},
     "evaluate.evaluators: scenes needs 'scene', which data.source=coco_folder does not provide (it provides image, "),
    ({"evaluate.evaluators": "loses"}, "evaluate.evaluators: no evaluator 'loses'; known: answers, "),
    ({"objective.terms": "mean_square_error=1"},
     "objective.terms.mean_square_error: no such term; did you mean mean_squared_error?"),
])  # fmt: skip
def test_names_of_later_parts_are_checked_before_anything_is_opened(overrides: dict[str, str], what: str) -> None:
    assert what in told(setup.check, resolve(BASE, overrides))
