"""Recipes of mixtures: what their parts take from them, and whatever is wrong in one line."""

import json
from typing import Any

import pytest

from mmjax.commands import wiring
from mmjax.config import Config, differences, resolve, to_dict
from mmjax.train.workdir import check_overrides, check_recipe, open_workdir
from mmjax.types import UserError

COCO = {"source": "coco_folder", "weight": 3.0, "flip": True}
SHAPES = {"source": "scenes", "scenes": {"determined": False}}


def mixture(overrides: dict[str, str] | None = None, **fields: Any) -> Config:
    parts = {"coco": COCO, "shapes": SHAPES}
    common = {"source": "mixture", "root": "/data", "size": 64, "scenes": {"examples": 70}, "parts": parts}
    model = {"decoder_widths": [16, 8]}
    return resolve({"train": {"steps": 1}, "model": model, "data": common | fields}, overrides)


def told(*arguments: Any, **fields: Any) -> str:
    with pytest.raises(UserError) as error:
        mixture(*arguments, **fields)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_part_takes_from_the_mixture_what_it_does_not_set() -> None:
    parts = mixture(evaluation_examples=5, resize=90).data.parts
    coco, shapes = parts["coco"], parts["shapes"]
    assert (coco.weight, coco.root, coco.size, coco.resize, coco.flip) == (3.0, "/data", 64, 90, True)
    assert (shapes.weight, shapes.size, shapes.flip, shapes.evaluation_examples) == (1.0, 64, False, 5)
    assert (shapes.scenes.examples, shapes.scenes.determined) == (70, False)
    assert mixture().data.parts["coco"].resize == mixture().data.resize == 73


def test_comes_back_from_json() -> None:
    config = mixture()
    assert resolve(json.loads(json.dumps(to_dict(config)))) == config


def test_the_command_line_sets_a_mixture_and_any_of_its_parts() -> None:
    overrides = {
        "data.source": "mixture",
        "data.parts.one.source": "scenes",
        "data.parts.one.scenes.examples": "7",
        "data.parts.two.source": "coco_folder",
        "data.parts.two.root": "/x",
        "data.parts.two.weight": "2",
    }
    data = resolve({"train": {"steps": 1}}, overrides).data
    assert data.parts["one"].scenes.examples == 7 and data.parts["one"].size == 32
    assert (data.parts["two"].weight, data.parts["two"].root) == (2.0, "/x")


def test_what_is_set_for_the_mixture_later_reaches_the_parts_that_have_it() -> None:
    saved = to_dict(mixture(parts={"coco": COCO, "other": COCO | {"root": "/other"}}))
    moved = resolve(saved, {"data.root": "/new", "data.evaluation_examples": "3"}).data
    assert [part.root for part in moved.parts.values()] == ["/new", "/other"]
    assert [part.evaluation_examples for part in moved.parts.values()] == [3, 3]


def test_a_tokenizers_mixture_takes_the_root_that_is_named_once() -> None:
    tokenizer = {
        "train": {"steps": 1},
        "model": {"kind": "visual_tokenizer", "widths": [8]},
        "data": {"source": "mixture", "parts": {"coco": {"source": "coco_folder"}}},
    }
    model = {"kind": "masked_generator", "width": 32}
    terms = {"terms": {"masked_visual_modeling": 1.0}}
    data = {"source": "mixture", "root": "/data", "parts": {"coco": {"source": "coco_folder"}}}
    config = resolve({"train": {"steps": 1}, "model": model, "tokenizer": tokenizer, "data": data, "objective": terms})
    assert config.tokenizer is not None and config.tokenizer.data.parts["coco"].root == "/data"


@pytest.mark.parametrize(("fields", "what"), [
    ({"parts": {}}, "data.parts: a mixture needs at least one, as in {'coco': {'source': 'coco_folder', "),
    ({"parts": {"coco": COCO | {"weight": 0.0}}}, "data.parts.coco.weight: must be above 0, not 0.0"),
    ({"parts": {"coco": COCO | {"weight": -1}}}, "data.parts.coco.weight: must be above 0, not -1.0"),
    ({"parts": {"coco": COCO | {"weight": float("nan")}}}, "data.parts.coco.weight: must be finite, not nan"),
    ({"parts": {"coco": COCO, "rare": SHAPES | {"weight": 0.001}}},
     "data.parts.rare.weight: 0.001 is less than 1 in 1,000 of all, 3.001; leave the part out, or raise it"),
    ({"parts": {"coco": COCO | {"source": "coco"}}}, "data.parts.coco.source: must be one of scenes, coco_folder, "),
    ({"parts": {"coco": {"weight": 1.0}}}, "data.parts.coco.source: must be set, as in coco_folder"),
    ({"parts": {"two": {"source": "mixture"}}}, "data.parts.two: is a mixture itself; name its parts beside the "),
    ({"parts": {"two": {"source": "mixture", "parts": {"coco": COCO}}}}, "data.parts.two: is a mixture itself; name"),
    ({"parts": {"coco": COCO | {"parts": {"x": COCO}}}}, "data.parts.coco.parts: are those of a mixture, and "),
    ({"parts": {"coco": COCO | {"size": 32}}}, "data.parts.coco.size: must be that of all parts, data.size=64, not"),
    ({"parts": {"shapes": SHAPES | {"frames": 2}}}, "data.parts.shapes.frames: must be that of all parts, "),
    ({"parts": {"shapes": SHAPES | {"flip": True}}}, "data.parts.shapes.flip: a mirrored scene makes its caption "),
    ({"parts": {"coco": COCO}, "root": ""}, "data.parts.coco.root: coco_folder needs the folder of the data set"),
    ({"parts": {"coco": COCO | {"most_rejected": 2.0}}}, "data.parts.coco.most_rejected: must be from 0 to 1"),
    ({"parts": {"coco": COCO | {"rot": "/x"}}},
     "data.parts.coco.rot: no such field; did you mean data.parts.coco.root?"),
    ({"parts": {"coco": 3}}, "data.parts.coco: must be a group of fields, not 3"),
    ({"parts": [COCO]}, "data.parts: must be a table of names, each a group of fields, not [{"),
    ({"parts": {"a/b": COCO}}, "data.parts: 'a/b' is no name for a part; take letters, digits, _ and -"),
    ({"source": "scenes"}, "data.parts: are those of a mixture, and data.source is scenes"),
    ({"sise": 3}, "data.sise: no such field; did you mean data.size?"),
    ({"size": "3"}, "data.size: must be a whole number, not '3'"),
])  # fmt: skip
def test_what_is_wrong_is_told(fields: dict[str, Any], what: str) -> None:
    assert told(**fields).startswith(what)


@pytest.mark.parametrize(("name", "value", "what"), [
    ("data.parts.coco.rot", "x", "data.parts.coco.rot: no such field; did you mean data.parts.coco.root?"),
    ("data.parts.coc.root", "x", "data.parts.coc.source: must be set, as in coco_folder"),
    ("data.parts.coco", "x", "data.parts.coco: must be a group of fields, not 'x'"),
    ("data.parts.coco.weight", "big", "data.parts.coco.weight: must be a number, not 'big'"),
    ("data.weight", "1", "data.weight: no such field; "),
])  # fmt: skip
def test_what_is_wrong_on_the_command_line_is_told(name: str, value: str, what: str) -> None:
    assert told({name: value}).startswith(what)


def test_an_evaluator_needs_what_all_parts_provide() -> None:
    config = mixture({"evaluate.evaluators": "scenes"})
    with pytest.raises(UserError, match=r"data\.source=mixture does not provide \(it provides image, text\)"):
        wiring.check(config)


def test_a_workdir_may_find_a_part_elsewhere_but_not_another_part(tmp_path: Any) -> None:
    open_workdir(tmp_path, mixture())
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    check_recipe(tmp_path, mixture({"data.parts.coco.root": "/elsewhere", "data.parts.coco.evaluation_examples": "7"}))
    for name, value in (("weight", "2"), ("flip", "false")):
        with pytest.raises(UserError, match=rf"another recipe: data\.parts\.coco\.{name} was "):
            check_recipe(tmp_path, mixture({f"data.parts.coco.{name}": value}))
    with pytest.raises(UserError, match=r"another recipe: data\.parts\.shapes was "):
        check_recipe(tmp_path, mixture(parts={"coco": COCO}))
    check_overrides({"data.parts.coco.root": "x", "data.parts.coco.evaluation_split": "val2014"})
    with pytest.raises(UserError, match=r"data\.parts\.coco\.weight: is what the model was trained with"):
        check_overrides({"data.parts.coco.weight": "1"})
    assert not list(differences(to_dict(mixture()), to_dict(mixture())))
