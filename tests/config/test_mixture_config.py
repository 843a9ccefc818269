"""Configs of mixtures: what their parts take from them, and whatever is wrong in one line."""

import json
from typing import Any

import pytest
from messages import error_message

from mmjax.config import Config, differences, resolve, to_dict
from mmjax.engine import setup
from mmjax.train.workdir import check_config, check_overrides, open_workdir
from mmjax.types import UserError

COCO = {"source": "coco_folder", "weight": 3.0, "flip": True}
SHAPES = {"source": "scenes", "scenes": {"fully_specified": False}}


def mixture(overrides: dict[str, str] | None = None, **fields: Any) -> Config:
    parts = {"coco": COCO, "shapes": SHAPES}
    common = {"source": "mixture", "root": "/data", "size": 64, "scenes": {"examples": 70}, "mixture": parts}
    model = {"decoder_widths": [16, 8]}
    return resolve({"train": {"steps": 1}, "model": model, "data": common | fields}, overrides)


def test_a_part_takes_from_the_mixture_what_it_does_not_set() -> None:
    parts = mixture(evaluation_examples=5, resize=90).data.mixture
    coco, shapes = parts["coco"], parts["shapes"]
    assert (coco.weight, coco.root, coco.size, coco.resize, coco.flip) == (3.0, "/data", 64, 90, True)
    assert (shapes.weight, shapes.size, shapes.flip, shapes.evaluation_examples) == (1.0, 64, False, 5)
    assert (shapes.scenes.examples, shapes.scenes.fully_specified) == (70, False)
    assert mixture().data.mixture["coco"].resize == mixture().data.resize == 73


def test_comes_back_from_json() -> None:
    config = mixture()
    assert resolve(json.loads(json.dumps(to_dict(config)))) == config


def test_the_command_line_sets_a_mixture_and_any_of_its_parts() -> None:
    overrides = {
        "data.source": "mixture",
        "data.mixture.one.source": "scenes",
        "data.mixture.one.scenes.examples": "7",
        "data.mixture.two.source": "coco_folder",
        "data.mixture.two.root": "/x",
        "data.mixture.two.weight": "2",
    }
    data = resolve({"train": {"steps": 1}}, overrides).data
    assert data.mixture["one"].scenes.examples == 7 and data.mixture["one"].size == 32
    assert (data.mixture["two"].weight, data.mixture["two"].root) == (2.0, "/x")


def test_what_is_set_for_the_mixture_later_reaches_the_parts_that_have_it() -> None:
    saved = to_dict(mixture(mixture={"coco": COCO, "other": COCO | {"root": "/other"}}))
    moved = resolve(saved, {"data.root": "/new", "data.evaluation_examples": "3"}).data
    assert [part.root for part in moved.mixture.values()] == ["/new", "/other"]
    assert [part.evaluation_examples for part in moved.mixture.values()] == [3, 3]


def test_a_tokenizers_mixture_takes_the_root_that_is_named_once() -> None:
    tokenizer = {
        "train": {"steps": 1},
        "model": {"kind": "visual_tokenizer", "widths": [8]},
        "data": {"source": "mixture", "mixture": {"coco": {"source": "coco_folder"}}},
    }
    model = {"kind": "masked_generator", "width": 32}
    rest = {"train": {"steps": 1}, "losses": {"masked_visual_modeling": {}}}
    data = {"source": "mixture", "root": "/data", "mixture": {"coco": {"source": "coco_folder"}}}
    config = resolve({"model": model, "components": {"visual_tokenizer": tokenizer}, "data": data, **rest})
    found = config.component("visual_tokenizer")
    assert found is not None and found.data.mixture["coco"].root == "/data"


@pytest.mark.parametrize(("fields", "name", "value"), [  # what is set, the field that is told, and what of its value
    ({"mixture": {}}, "", ""),
    ({"mixture": {"coco": COCO | {"weight": 0.0}}}, "coco.weight", "0.0"),
    ({"mixture": {"coco": COCO | {"weight": -1}}}, "coco.weight", "-1.0"),
    ({"mixture": {"coco": COCO | {"weight": float("nan")}}}, "coco.weight", "nan"),
    ({"mixture": {"coco": COCO, "rare": SHAPES | {"weight": 0.001}}}, "rare.weight", "0.001"),
    ({"mixture": {"coco": COCO | {"source": "coco"}}}, "coco.source", "'coco'"),
    ({"mixture": {"coco": {"weight": 1.0}}}, "coco.source", ""),
    ({"mixture": {"two": {"source": "mixture"}}}, "two", ""),
    ({"mixture": {"two": {"source": "mixture", "mixture": {"coco": COCO}}}}, "two", ""),
    ({"mixture": {"coco": COCO | {"mixture": {"x": COCO}}}}, "coco.mixture", "coco_folder"),
    ({"mixture": {"coco": COCO | {"size": 32}}}, "coco.size", "32"),
    ({"mixture": {"shapes": SHAPES | {"frames": 2}}}, "shapes.frames", "2"),
    ({"mixture": {"shapes": SHAPES | {"flip": True}}}, "shapes.flip", ""),
    ({"mixture": {"coco": COCO}, "root": ""}, "coco.root", "coco_folder"),
    ({"mixture": {"coco": COCO | {"max_corrupt_fraction": 2.0}}}, "coco.max_corrupt_fraction", "2.0"),
    ({"mixture": {"coco": COCO | {"rot": "/x"}}}, "coco.rot", "did you mean data.mixture.coco.root?"),
    ({"mixture": {"coco": 3}}, "coco", "3"),
    ({"mixture": [COCO]}, "", repr([COCO])),
    ({"mixture": {"a/b": COCO}}, "", "'a/b'"),
    ({"source": "scenes"}, "", "scenes"),
])  # fmt: skip
def test_what_is_wrong_is_told(fields: dict[str, Any], name: str, value: str) -> None:
    message = error_message(mixture, **fields)
    assert message.startswith(f"data.mixture.{name}".rstrip(".") + ": ") and value in message


def test_what_is_wrong_with_the_data_around_a_mixture_is_told_there() -> None:
    assert error_message(mixture, sise=3).startswith("data.sise: no such field; did you mean data.size?")
    assert error_message(mixture, size="3").startswith("data.size: must be ")


@pytest.mark.parametrize(("name", "value", "told"), [
    ("data.mixture.coco.rot", "x", "data.mixture.coco.root?"),
    ("data.mixture.coco", "x", ""),
    ("data.mixture.coco.weight", "big", "'big'"),
    ("data.weight", "1", ""),
])  # fmt: skip
def test_what_is_wrong_on_the_command_line_is_told(name: str, value: str, told: str) -> None:
    message = error_message(mixture, {name: value})
    assert message.startswith(f"{name}: ") and told in message


def test_a_component_needs_a_source() -> None:
    assert error_message(mixture, {"data.mixture.coc.root": "x"}).startswith("data.mixture.coc.source: ")


def test_an_evaluator_needs_what_all_parts_provide() -> None:
    config = mixture({"evaluate.evaluators": "scenes"})
    with pytest.raises(UserError, match=r"^evaluate\.evaluators: scenes .*data\.source=mixture"):
        setup.check(config)


def test_a_workdir_may_find_a_part_elsewhere_but_not_another_part(tmp_path: Any) -> None:
    open_workdir(tmp_path, mixture())
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    check_config(
        tmp_path, mixture({"data.mixture.coco.root": "/elsewhere", "data.mixture.coco.evaluation_examples": "7"})
    )
    for name, value in (("weight", "2"), ("flip", "false")):
        with pytest.raises(UserError, match=rf"another config: data\.mixture\.coco\.{name} was "):
            check_config(tmp_path, mixture({f"data.mixture.coco.{name}": value}))
    with pytest.raises(UserError, match=r"another config: data\.mixture\.shapes was "):
        check_config(tmp_path, mixture(mixture={"coco": COCO}))
    check_overrides({"data.mixture.coco.root": "x", "data.mixture.coco.evaluation_split": "val2014"})
    with pytest.raises(UserError, match=r"data\.mixture\.coco\.weight: "):
        check_overrides({"data.mixture.coco.weight": "1"})
    assert not list(differences(to_dict(mixture()), to_dict(mixture())))
