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
from messages import error_message

from mmjax import config
from mmjax.config import Config, resolve, to_dict
from mmjax.config.known_fields import fields_of
from mmjax.data.source import SourceSpec, captioned_images
from mmjax.engine import setup
from mmjax.losses import LOSSES
from mmjax.models import MODELS
from mmjax.sample import SAMPLERS
from mmjax.train.optimizer import OPTIMIZERS
from mmjax.types import UserError

BASE: dict[str, Any] = {"train": {"steps": 1}}
IMAGE_LOSSES = ("mean_squared_error", "mean_absolute_error", "adversarial", "feature_matching", "perceptual")
TEXT_LOSSES = ("contrastive", "matching", "captioning", "answering", "classification", "masked_language_modeling",
               "masked_patch_modeling")  # fmt: skip
# A config of each kind of model, with all the losses that it can be trained on.
BASES: dict[str, dict[str, Any]] = {
    "direct_generator": BASE | {"optimizer": {"kind": "adam"}},
    "visual_tokenizer": BASE | {
        "model": {"kind": "visual_tokenizer"},
        "losses": {name: {} for name in IMAGE_LOSSES},
        "perceptual": {"weights": "vgg.safetensors"},
        "optimizer": {"kind": "adamw"},
    },
    "masked_generator": BASE | {
        "model": {"kind": "masked_generator"},
        "components": {"visual_tokenizer": BASE | {"model": {"kind": "visual_tokenizer"}}},
        "losses": {"masked_visual_modeling": {}},
        "optimizer": {"kind": "muon"},
        "sampling": {"kind": "maskgit"},
    },
    "vision_language": BASE | {
        "model": {"kind": "vision_language", "classes": 7},
        "losses": {name: {} for name in TEXT_LOSSES},
    },
    "sigmoid": BASE | {"model": {"kind": "vision_language"}, "losses": {"sigmoid_contrastive": {}}},
}  # fmt: skip
OWN_SOURCE = SourceSpec(captioned_images, lambda *_: None, settings=("options",), needs_root=False)  # type: ignore


def leaves(base: str) -> Iterator[tuple[tuple[str, str], tuple[Any, Any]]]:
    """((base, dotted name), (type, limits)) of each field of a config that holds a value and no further fields."""
    for known in fields_of(Config, BASES[base]):
        held = (known.hint, *typing.get_args(known.hint))
        if not any(isinstance(each, type) and dataclasses.is_dataclass(each) for each in held):
            yield (base, known.name), (known.hint, known.limits)


LEAVES = {key: value for base in BASES for key, value in leaves(base)}


def nested(dotted: str, value: Any, base: Any = BASE) -> dict[str, Any]:
    """The base, with a value at a dotted name."""
    tree: dict[str, Any] = json.loads(json.dumps(base))
    node = tree
    *parents, last = dotted.split(".")
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = value
    return tree


def value_at(group: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        group = group[part] if isinstance(group, dict) else getattr(group, part)
    return group


def test_the_bases_reach_every_kind_of_model_loss_and_optimizer() -> None:
    reached = [resolve(base) for base in BASES.values()]
    assert {each.model.kind for each in reached} == MODELS.keys()
    assert {each.optimizer.kind for each in reached} == OPTIMIZERS.keys()
    assert {term.kind for each in reached for term in each.losses.values()} == LOSSES.keys()
    assert {each.sampling.kind for each in reached} == SAMPLERS.keys()
    of_kinds = {
        *(("model", spec.config) for spec in MODELS.values()),
        *(("optimizer", spec.config) for spec in OPTIMIZERS.values()),
    }
    for section, cls in of_kinds:
        for field in dataclasses.fields(cls):
            assert any(name == f"{section}.{field.name}" for _, name in LEAVES), (cls, field.name)


@pytest.mark.parametrize(("name", "near"), [
    ("model.vison_layers", "model.vision_layers"),
    ("model.widht", "model.width"),
    ("train.step", "train.steps"),
    ("optimizer.learningrate", "optimizer.learning_rate"),
    ("data.scenes.example", "data.scenes.examples"),
    ("losses.mean_squared_error.wieght", "losses.mean_squared_error.weight"),
    ("compute.atention", "compute.attention"),
    ("modle.width", "model.width"),
    ("sed", "seed"),
])  # fmt: skip
def test_an_unknown_field_is_told_with_the_nearest(name: str, near: str) -> None:
    expected = f"{name}: no such field; did you mean {near}?"
    assert error_message(resolve, BASE, {name: "1"}).startswith(expected)
    in_config = "modle: no such field; did you mean model?" if name == "modle.width" else expected
    assert error_message(resolve, nested(name, 1)).startswith(in_config)


def test_an_unknown_field_near_to_nothing() -> None:
    for message in (error_message(resolve, BASE, {"xyzzy": "1"}), error_message(resolve, nested("xyzzy", 1))):
        assert message.startswith("xyzzy: no such field; ") and "did you mean" not in message


def test_a_field_of_another_kind_is_unknown() -> None:
    """A kind brings its own fields, wherever it is named."""
    assert error_message(resolve, nested("model.levels", [3, 5])).startswith("model.levels: no such field")
    assert error_message(resolve, BASE, {"optimizer.b1": "0.5", "optimizer.kind": "adamm"}).startswith(
        "optimizer.kind: "
    )
    assert error_message(resolve, BASE, {"optimizer.weight_decay": "0.5"}).startswith("optimizer.weight_decay: ")
    found = resolve(BASE, {"optimizer.weight_decay": "0.5", "optimizer.kind": "adamw"})
    assert value_at(found, "optimizer.weight_decay") == 0.5
    assert error_message(resolve, nested("losses.mean_squared_error.mask_ratio", 0.5)).startswith(
        "losses.mean_squared_error.mask_ratio: no such field"
    )
    renamed = {
        "losses": {"first": {"kind": "mean_squared_error"}, "second": {"kind": "mean_absolute_error", "weight": 2}}
    }
    terms = resolve(BASE | renamed).losses
    assert {name: (term.kind, term.weight) for name, term in terms.items()} == {
        "first": ("mean_squared_error", 1.0), "second": ("mean_absolute_error", 2.0)
    }  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [
    ("model.width", "128"),
    ("model.width", 12.0),
    ("model.width", True),
    ("model.reference", 1),
    ("model.reference", False),
    ("optimizer.grad_clip_norm", "1"),
    ("optimizer.grad_clip_norm", False),
    ("compute.remat", 1),
    ("data.root", None),
    ("data.root", Path("x")),
    ("model.decoder_widths", 16),
    ("losses", ["a"]),
    ("losses.mean_squared_error", 1.0),
    ("losses.mean_squared_error.kind", 3),
    ("model", 3),
    ("model.kind", 3),
    ("compute.dtype", "float16"),
    ("data.source", ["scenes"]),
    ("data.options", {"a": ["b"]}),
    ("components", "x"),
])  # fmt: skip
def test_a_wrong_type_is_told(name: str, value: Any) -> None:
    message = error_message(resolve, nested(name, value))
    shown = value["a"] if name == "data.options" else value
    at = name + ".a" if name == "data.options" else name
    assert message.startswith(f"{at}: must be ") and message.endswith(f", not {shown!r}")


@pytest.mark.parametrize(("name", "value"), [
    ("optimizer.grad_clip_norm", float("nan")), ("optimizer.learning_rate", float("inf"))
])  # fmt: skip
def test_numbers_are_finite(name: str, value: float) -> None:
    assert error_message(resolve, nested(name, value)) == f"{name}: must be finite in float32, not {value}"
    assert error_message(resolve, BASE, {name: str(value)}) == f"{name}: must be finite in float32, not {value}"


def test_a_wrong_item_is_told_with_its_place() -> None:
    message = error_message(resolve, nested("model.decoder_widths", [16, "8"]))
    assert message.startswith("model.decoder_widths[1]: ") and message.endswith("not '8'")
    message = error_message(resolve, nested("losses", {"mean_squared_error": {"weight": "x"}}))
    assert message.startswith("losses.mean_squared_error.weight: ") and message.endswith("not 'x'")


@pytest.mark.parametrize("overrides", [  # the field that is told first, and those that make it impossible
    {"model.heads": "3"},
    {"model.width": "6", "model.heads": "3"},
    {"model.text_layers": "-1"},
    {"model.decoder_widths": "()"},
    {"model.decoder_widths": "16,0"},
    {"data.size": "33"},
    {"data.size": "28"},
    {"data.resize": "31"},
    {"data.root": "", "data.source": "coco_folder"},
    {"data.frames": "5", "data.source": "coco_tfds", "data.root": "/x"},
    {"data.frames": "5"},
    {"train.skip_grad_spikes": "0.5"},
    {"optimizer.grad_accum_steps": "3"},
    {"optimizer.ema_decay": "1"},
    {"model.reference_dropout": "1.5"},
    {"text.vocabulary": "299"},
    {"losses.mean_squared_error.weight": "0"},
])  # fmt: skip
def test_impossible_sizes_are_told(overrides: dict[str, str]) -> None:
    (name, value), *_ = overrides.items()
    message = error_message(resolve, BASE, overrides)
    assert message.partition(":")[0].split(",")[0] == name
    assert value.rpartition(",")[2].strip("()") in message


@pytest.mark.parametrize("component", [{}, {"path": ""}], ids=str)
def test_a_component_is_a_path_or_a_config(component: dict[str, str]) -> None:
    masked = BASE | {"model": {"kind": "masked_generator"}, "losses": {"masked_visual_modeling": {}}}
    told = error_message(resolve, masked | {"components": {"visual_tokenizer": component}})
    assert told.startswith("components.visual_tokenizer: ") and "--config.components.visual_tokenizer=DIR" in told


def test_a_reference_that_is_not_there_cannot_be_dropped() -> None:
    message = error_message(resolve, BASE, {"model.reference_dropout": "0.5", "model.reference": ""})
    assert message.startswith("model.reference_dropout: ") and "model.reference" in message.partition(": ")[2]


@pytest.mark.parametrize("overrides", [{"train.steps": "0"}, {"train.epochs": "2"}])
def test_how_long_to_train_is_set_once(overrides: dict[str, str]) -> None:
    assert error_message(resolve, BASE, overrides).startswith("train.steps, train.epochs: ")


@pytest.mark.parametrize("axes", [{"data": -1, "model": -1}, {"data": 0}, {"fsdp": -2}])
def test_axes_of_the_mesh_are_above_0_or_one_is_all_that_are_left(axes: dict[str, int]) -> None:
    message = error_message(resolve, BASE | {"mesh": axes})
    all_axes = [axes.get("data", -1), axes.get("fsdp", 1), axes.get("model", 1)]
    assert message.startswith("mesh: ") and message.endswith(f"not {all_axes}")


@pytest.mark.parametrize(("name", "text", "value"), [
    ("model.width", "1_024", 1024),
    ("model.width", " 64 ", 64),
    ("optimizer.learning_rate", "3e-4", 3e-4),
    ("optimizer.grad_clip_norm", "2", 2.0),
    ("compute.remat", "False", False),
    ("compute.remat", "1", True),
    ("compute.remat", "yes", True),
    ("model.reference", "", ""),
    ("name", "mine=yours, 1", "mine=yours, 1"),
    ("data.root", "", ""),
    ("compute.dtype", "bfloat16", "bfloat16"),
    ("model.decoder_widths", "(16, 8)", (16, 8)),
    ("model.decoder_widths", "[16]", (16,)),
    ("model.decoder_widths", "16,8,", (16, 8)),
    ("evaluate.evaluators", "losses,samples", ("losses", "samples")),
    ("evaluate.evaluators", "", ()),
    ("train.init_rename", "{vision=encoder, head=-}", {"vision": "encoder", "head": "-"}),
    ("train.init_rename.vision", "encoder", "encoder"),
    ("losses.mean_absolute_error.weight", "2", 2.0),
    ("losses.mine.kind", "mean_absolute_error", "mean_absolute_error"),
    ("data.options.path", "a b", "a b"),
    ("data.options.count", "3", 3),
    ("data.options.rate", "0.5", 0.5),
    ("data.options.mirrored", "true", True),
    ("mesh.data", "-1", -1),
])  # fmt: skip
def test_values_of_the_command_line(name: str, text: str, value: Any) -> None:
    own_source = {"data": {"source": f"{__name__}:OWN_SOURCE"}} if "options" in name else {}
    found = value_at(resolve(BASE | own_source, {name: text}), name)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(("name", "text"), [
    ("model.width", "64.0"),
    ("model.width", ""),
    ("optimizer.grad_clip_norm", "big"),
    ("compute.remat", "maybe"),
    ("compute.dtype", "float64"),
    ("model.decoder_widths", "16,x"),
    ("losses.mean_squared_error.weight", "big"),
])  # fmt: skip
def test_wrong_values_of_the_command_line(name: str, text: str) -> None:
    message = error_message(resolve, BASE, {name: text})
    assert message.startswith(f"{name}: must be ") and message.endswith(f", not {text.rpartition(',')[2]!r}")


@pytest.mark.parametrize(
    "name", ["model", "optimizer", "losses.mean_squared_error", "components.visual_tokenizer.config"]
)
def test_a_group_cannot_be_set_from_the_command_line(name: str) -> None:
    assert error_message(resolve, BASE, {name: "3"}).startswith(f"{name}: ")


def test_an_override_adds_a_term_to_those_of_the_config_and_leaves_the_config_alone() -> None:
    config_dict = {"losses": {"mean_squared_error": {"weight": 3.0}}, **BASE}
    found = resolve(config_dict, {"losses.mean_absolute_error.weight": "2"})
    assert {name: term.weight for name, term in found.losses.items()} == {
        "mean_squared_error": 3.0, "mean_absolute_error": 2.0
    }  # fmt: skip
    assert config_dict["losses"] == {"mean_squared_error": {"weight": 3.0}}


def other_values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a type, most of them possible."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(other_values(arguments[0]), max_size=3)
    if origin is dict:
        return st.dictionaries(st.text(min_size=1), other_values(arguments[1]), max_size=3)
    plain = {
        bool: st.booleans(),
        int: st.integers(-3, 2**40),
        float: st.floats(allow_nan=False, allow_infinity=False),
        str: st.text(),
    }
    return plain[kind] if kind in plain else st.one_of([plain[each] for each in arguments])


@given(st.data())
def test_every_config_that_resolves_comes_back_from_json(data: st.DataObject) -> None:
    base = data.draw(st.sampled_from(sorted(BASES)))
    config_dict = BASES[base]
    names = [name for of, name in LEAVES if of == base]
    for name in data.draw(st.lists(st.sampled_from(names), max_size=4)):
        config_dict = nested(name, data.draw(other_values(LEAVES[base, name][0]), label=name), config_dict)
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
    plain = [key for key, (kind, _) in LEAVES.items() if kind in (int, float, bool)]
    base, name = data.draw(st.sampled_from(plain))
    value = data.draw(other_values(LEAVES[base, name][0]))

    def outcome(*arguments: Any) -> Config | str:
        try:
            return resolve(*arguments)
        except UserError as error:
            return str(error)

    assert outcome(nested(name, value, BASES[base])) == outcome(BASES[base], {name: repr(value)})


def unlike_defaults(group: Any, prefix: str = "") -> Iterator[str]:
    """The dotted name of each field whose value is not its default."""
    for field in dataclasses.fields(group):
        name, value = prefix + field.name, getattr(group, field.name)
        members = {f"{name}.{key}": each for key, each in value.items()} if isinstance(value, dict) else {name: value}
        groups = {key: each for key, each in members.items() if dataclasses.is_dataclass(each)}
        for key, each in groups.items():
            yield from unlike_defaults(each, f"{key}.")
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        if not groups and value != default:
            yield name


@pytest.mark.parametrize("base", sorted(BASES))
def test_the_defaults_stand_where_the_config_says_nothing(base: str) -> None:
    changed = {name for name in unlike_defaults(resolve(BASES[base])) if not name.startswith("components.")}
    follows = {name for name in changed if name.endswith(".kind")} | {"data.resize"}
    given = {"train.steps"} | {
        "visual_tokenizer": {"perceptual.weights"}, "vision_language": {"model.classes"}
    }.get(base, set())  # fmt: skip
    assert changed - follows == given


@pytest.mark.parametrize(("size", "resize"), [(224, 256), (32, 37), (64, 73), (448, 512)])
def test_the_short_side_before_the_crop_follows_from_the_size(size: int, resize: int) -> None:
    assert resolve(BASE, {"data.size": str(size)}).data.resize == resize
    assert resolve(BASE, {"data.size": str(size), "data.resize": "512"}).data.resize == 512


def test_groups_that_two_configs_share_are_overridden_apart() -> None:
    shared = {"steps": 7}
    tokenizer = BASE | {"model": {"kind": "visual_tokenizer"}, "train": shared}
    generator = {"model": {"kind": "masked_generator"}, "losses": {"masked_visual_modeling": {}}}
    tree = BASE | generator | {"train": shared, "components": {"visual_tokenizer": tokenizer}}
    resolved = resolve(tree, {"train.steps": "9"})
    inner = resolved.component("visual_tokenizer")
    assert resolved.train.steps == 9 and inner is not None and inner.train.steps == 7


def test_names() -> None:
    assert resolve(BASE, default_name="file").name == "file"
    assert resolve(BASE, {"name": "mine"}, default_name="file").name == "mine"


def test_differences_name_each_field() -> None:
    over = {"model.width": "64", "losses.mean_absolute_error.weight": "7"}
    one, other = (to_dict(resolve(BASE, each)) for each in ({}, over))
    assert list(config.differences(one, other)) == [
        ("losses.mean_absolute_error", None, {"kind": "mean_absolute_error", "weight": 7.0, "scales": 1}),
        ("losses.mean_squared_error", {"kind": "mean_squared_error", "weight": 1.0, "scales": 1}, None),
        ("model.width", 128, 64),
    ]


@pytest.mark.parametrize(("name", "value"), [
    ("evaluate.evaluators", "loses"),
    ("losses.mean_squared_error.kind", "mean_square_error"),
    ("losses.mean_square_error.weight", "1"),
])  # fmt: skip
def test_names_of_later_parts_are_checked_before_anything_is_opened(name: str, value: str) -> None:
    message = error_message(resolve, BASE, {name: value})
    assert message.startswith(f"{name.removesuffix('weight').rstrip('.')}") and "did you mean " in message


def test_an_evaluator_needs_fields_that_the_source_gives() -> None:
    fields = {"evaluate.evaluators": "losses,scenes", "data.source": "coco_folder", "data.root": "/nowhere"}
    message = error_message(setup.check, resolve(BASE, fields))
    assert message.startswith("evaluate.evaluators: scenes ") and "'scene'" in message and "coco_folder" in message
