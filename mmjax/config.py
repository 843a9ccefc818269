"""From a recipe (a ConfigDict, overridden on the command line) to frozen dataclasses, strictly.

A recipe names only what differs from the defaults below. Unknown fields, wrong types and impossible sizes are errors
of one line, raised before anything is opened.
"""

import dataclasses
import difflib
import importlib.util
import json
import math
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ml_collections import ConfigDict

from mmjax.types import UserError


@dataclass(frozen=True)
class Scenes:
    """Drawn scenes: pictures of two objects with a caption.

    Attributes:
        examples: how many different training pictures; evaluation draws from the held-out combinations.
        determined: the caption determines the picture; otherwise position and size are left open.
    """

    examples: int = 20_000
    determined: bool = True


@dataclass(frozen=True)
class Data:
    """Where examples come from and how pictures are prepared.

    Attributes:
        source: "scenes" (drawn here), "coco_folder" (COCO in its official layout), "coco_tfds" (TFDS coco_captions).
        root: the COCO folder, or TFDS's data_dir; a bucket (gs://) works for TFDS.
        train_split, evaluation_split: split names of the source.
        size: side of the pictures, in pixels.
        resize: short side before the crop, in pixels; 0 takes size * 256 / 224.
        flip: mirror half of the training pictures.
        evaluation_examples: use only the first so many evaluation examples; 0 takes all.
        shuffle_buffer: for sources that can only be streamed (TFDS): examples held for shuffling.
    """

    source: Literal["scenes", "coco_folder", "coco_tfds"] = "scenes"
    root: str = ""
    train_split: str = "train"
    evaluation_split: str = "validation"
    size: int = 32
    resize: int = 0
    flip: bool = False
    evaluation_examples: int = 0
    shuffle_buffer: int = 4096
    scenes: Scenes = field(default_factory=Scenes)


@dataclass(frozen=True)
class Text:
    """SentencePiece tokens: the longest text in tokens, and the size of the vocabulary (an upper bound)."""

    length: int = 32
    vocabulary: int = 4096


@dataclass(frozen=True)
class Model:
    """The direct generator: text and an optional reference picture in, a picture out.

    Attributes:
        width: model width d, shared by the encoders and the fusion.
        heads: attention heads; must divide width.
        text_layers, vision_layers, fusion_layers: transformer layers of each part.
        reference: build the vision encoder, so that a reference picture can be given.
        decoder_widths: channels of the transposed convolutions; each doubles the side, so the grid of visual tokens
            has size / 2 ** len(decoder_widths) rows.
        dtype: what is computed in; parameters are always float32.
        attention: kernel of the scaled dot-product attention.
        upsampling: form of the transposed convolution, same values: "dilated" is native on TPU and GPU, "matmul" is
            many times faster on a CPU.
    """

    width: int = 128
    heads: int = 4
    text_layers: int = 2
    vision_layers: int = 2
    fusion_layers: int = 4
    reference: bool = True
    decoder_widths: tuple[int, ...] = (64, 32)
    dtype: Literal["float32", "bfloat16"] = "float32"
    attention: Literal["xla", "cudnn"] = "xla"
    upsampling: Literal["dilated", "matmul"] = "dilated"


@dataclass(frozen=True)
class Objective:
    """Named loss terms with their weights, and how often the reference picture is withheld (0 to 1)."""

    terms: dict[str, float] = field(default_factory=lambda: {"mean_squared_error": 1.0})
    drop_reference: float = 0.0


@dataclass(frozen=True)
class Optimizer:
    """Gradient descent.

    Attributes:
        name: "adam", or "adamw" with weight_decay (on matrices and kernels only).
        learning_rate: the peak; kept ("constant") or brought down to 0 ("cosine", "linear")
            after warmup_steps.
        clip: largest global norm of the gradient; 0 does not clip.
        accumulate: the batch is computed in so many parts, one after the other, to save memory.
        ema: decay of the exponential moving average of the parameters that is evaluated and exported; 0 keeps none.
    """

    name: Literal["adam", "adamw"] = "adam"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_steps: int = 0
    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 0.0
    clip: float = 0.0
    accumulate: int = 1
    ema: float = 0.0


@dataclass(frozen=True)
class Mesh:
    """Devices along each mesh axis; one of them may be -1: all that are left."""

    data: int = -1
    fsdp: int = 1
    model: int = 1


@dataclass(frozen=True)
class Train:
    """The training loop.

    Attributes:
        batch: examples a step, over all devices.
        steps, epochs: how long; exactly one of them is set.
        log_every, evaluate_every, checkpoint_every: steps between; 0 means once an epoch.
        keep: newest checkpoints kept, beside the best one.
        best: the figure of the evaluation that decides which checkpoint is best; "-" before it: smaller is better.
        max_bad_steps: stop after so many steps in a row with a loss or gradient that is not finite.
        wandb_project: also log to this Weights & Biases project (needs the wandb extra).
    """

    batch: int = 64
    steps: int = 0
    epochs: int = 0
    log_every: int = 50
    evaluate_every: int = 0
    checkpoint_every: int = 0
    keep: int = 3
    best: str = "-loss"
    max_bad_steps: int = 10
    wandb_project: str = ""


@dataclass(frozen=True)
class Evaluate:
    """Evaluators by name, examples a batch, and how many samples to draw for the eye."""

    evaluators: tuple[str, ...] = ("losses",)
    batch: int = 64
    samples: int = 16


@dataclass(frozen=True)
class Config:
    """A whole recipe."""

    name: str = ""
    seed: int = 0
    data: Data = field(default_factory=Data)
    text: Text = field(default_factory=Text)
    model: Model = field(default_factory=Model)
    objective: Objective = field(default_factory=Objective)
    optimizer: Optimizer = field(default_factory=Optimizer)
    mesh: Mesh = field(default_factory=Mesh)
    train: Train = field(default_factory=Train)
    evaluate: Evaluate = field(default_factory=Evaluate)


def load_recipe(path_and_argument: str, overrides: Mapping[str, str] | None = None) -> Config:
    """Reads `FILE[:argument]`, calls its get_config(argument), applies overrides and returns the checked recipe.

    Args:
        path_and_argument: as in `configs/coco_direct.py:size=64`.
        overrides: dotted field names to values as text, as given on the command line.

    Raises:
        UserError: for anything wrong with the file, a field or a value.
    """
    path, _, argument = path_and_argument.partition(":")
    if not Path(path).is_file():
        raise UserError(f"--config: no file {path}; a recipe is a Python file such as configs/quickstart.py")
    spec = importlib.util.spec_from_file_location(f"recipe_{Path(path).stem}", path)
    if not (spec and spec.loader):
        raise UserError(f"--config: {path} is no Python file; a recipe is one such as configs/quickstart.py")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(Path(path).resolve().parent))  # recipes build on each other
    try:
        spec.loader.exec_module(module)
        recipe = module.get_config(argument)
    except UserError:
        raise
    except AttributeError as error:
        if hasattr(module, "get_config"):
            raise UserError(f"{path}: {_one_line(error)}") from error
        raise UserError(f"{path}: defines no get_config(argument); see configs/quickstart.py") from error
    except Exception as error:  # the recipe is the user's program; whatever it raises is theirs to read
        raise UserError(f"{path}: {type(error).__name__}: {_one_line(error)}") from error
    finally:
        sys.path.pop(0)
    if not isinstance(recipe, ConfigDict):
        raise UserError(f"{path}: get_config must return an ml_collections.ConfigDict, not {type(recipe).__name__}")
    return resolve(recipe.to_dict(), overrides or {}, default_name=Path(path).stem)


def resolve(recipe: Mapping[str, Any], overrides: Mapping[str, str] | None = None, default_name: str = "") -> Config:
    """Turns nested plain data into a checked Config; `overrides` map dotted names to values as text."""
    tree = _copy(recipe)
    for dotted, text in (overrides or {}).items():
        kind = _field_type(dotted)
        node = tree
        *parents, last = dotted.split(".")
        for depth, parent in enumerate(parents):
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise UserError(f"{'.'.join(parents[: depth + 1])}: must be a group of fields")
        node[last] = _from_text(dotted, kind, text)
    config = _build(Config, tree, "")
    if not config.name:
        config = dataclasses.replace(config, name=default_name)
    if not config.data.resize:
        data = dataclasses.replace(config.data, resize=round(config.data.size * 256 / 224))
        config = dataclasses.replace(config, data=data)
    _check(config)
    return config


def parse_arguments(argument: str | None, **defaults: Any) -> Any:
    """What follows the colon of `--config=FILE:size=64,tiny`, as a namespace with the given defaults.

    A bare word is a flag: its default must be a bool. Every recipe has the flag `tiny`.

    Raises:
        UserError: for a name that is not among the defaults, or a value of another type.
    """
    values = {"tiny": False, **defaults}
    for item in filter(None, (argument or "").split(",")):
        name, equals, text = item.partition("=")
        if name not in values:
            raise UserError(f"no recipe argument {name}; {_nearest(name, values) or 'known: ' + ', '.join(values)}")
        kind = type(values[name])
        if not equals and kind is not bool:
            raise UserError(f"recipe argument {name}: needs a value, as in {name}={values[name]}")
        values[name] = _from_text(f"recipe argument {name}", kind, text if equals else "true")
    return types.SimpleNamespace(**values)


def to_dict(config: Any) -> dict[str, Any]:
    """The recipe as nested plain data that JSON can hold; `resolve` brings it back."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields (dotted name, old value, new value) for each field in which two recipes differ."""
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


def _all_fields(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    hints = typing.get_type_hints(cls)
    for f in dataclasses.fields(cls):
        yield prefix + f.name, hints[f.name]
        if dataclasses.is_dataclass(hints[f.name]):
            yield from _all_fields(hints[f.name], f"{prefix}{f.name}.")


def _unknown(dotted: str) -> UserError:
    return UserError(
        f"{dotted}: no such field; " + (_nearest(dotted, dict(_all_fields(Config))) or "see mmjax/config.py")
    )


def _field_type(dotted: str) -> Any:
    """The declared type of a field; the values of a dict field are fields of their own (objective.terms.NAME)."""
    known = dict(_all_fields(Config))
    parent, _, _ = dotted.rpartition(".")
    if dotted in known:
        if dataclasses.is_dataclass(known[dotted]):
            raise UserError(f"{dotted}: is a group of fields; set one of them, as in --config.{dotted}.FIELD=VALUE")
        return known[dotted]
    if typing.get_origin(known.get(parent)) is dict:
        return typing.get_args(known[parent])[1]
    raise _unknown(dotted)


def _build(cls: Any, tree: Any, prefix: str) -> Any:
    if not isinstance(tree, Mapping):
        raise UserError(f"{prefix.rstrip('.')}: must be a group of fields, not {tree!r}")
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in tree.items():
        if key not in hints:
            raise _unknown(f"{prefix}{key}")
        kind = hints[key]
        name = f"{prefix}{key}"
        values[key] = _build(kind, value, name + ".") if dataclasses.is_dataclass(kind) else _typed(name, kind, value)
    return cls(**values)


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
    if origin is None and type(value) is kind:
        return value
    raise UserError(f"{name}: must be {_type_name(kind)}, not {value!r}")


def _type_name(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    if typing.get_origin(kind) is tuple:
        return "a list, each item " + _type_name(typing.get_args(kind)[0])
    if typing.get_origin(kind) is dict:
        return "a table of names, each " + _type_name(typing.get_args(kind)[1])
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
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if kind in (int, float):
            return kind(text.replace("_", ""))
    except (ValueError, KeyError):
        raise UserError(f"{name}: must be {_type_name(kind)}, not {text!r}") from None
    return text


def _check(config: Config) -> None:
    """Sizes and combinations that no type can rule out."""

    def need(condition: bool, message: str) -> None:
        if not condition:
            raise UserError(message)

    data, text, model, train, optimizer = config.data, config.text, config.model, config.train, config.optimizer
    positive = {
        "data.size": data.size,
        "text.length": text.length,
        "model.width": model.width,
        "model.heads": model.heads,
        "train.batch": train.batch,
        "train.keep": train.keep,
        "evaluate.batch": config.evaluate.batch,
        "optimizer.accumulate": optimizer.accumulate,
        "train.log_every": train.log_every,
        "data.scenes.examples": data.scenes.examples,
        "data.shuffle_buffer": data.shuffle_buffer,
        "optimizer.learning_rate": optimizer.learning_rate,
        "train.max_bad_steps": train.max_bad_steps,
    }
    for name, value in positive.items():
        need(value > 0, f"{name}: must be above 0, not {value}")
    not_negative = {
        "model.text_layers": model.text_layers,
        "model.vision_layers": model.vision_layers,
        "model.fusion_layers": model.fusion_layers,
        "train.steps": train.steps,
        "train.epochs": train.epochs,
        "optimizer.clip": optimizer.clip,
        "train.evaluate_every": train.evaluate_every,
        "train.checkpoint_every": train.checkpoint_every,
        "optimizer.warmup_steps": optimizer.warmup_steps,
        "optimizer.weight_decay": optimizer.weight_decay,
        "data.evaluation_examples": data.evaluation_examples,
        "evaluate.samples": config.evaluate.samples,
    }
    for name, value in not_negative.items():
        need(value >= 0, f"{name}: must not be below 0, not {value}")
    for name in ("b1", "b2", "ema"):
        need(0 <= getattr(optimizer, name) < 1, f"optimizer.{name}: must be from 0 to below 1")
    need(0 <= config.objective.drop_reference <= 1, "objective.drop_reference: must be from 0 to 1")
    need(bool(config.objective.terms), "objective.terms: name at least one, as in {'mean_squared_error': 1.0}")
    need(
        text.vocabulary >= 300,
        f"text.vocabulary: must be at least 300 (all bytes and some pieces), not {text.vocabulary}",
    )
    need(model.width % model.heads == 0, f"model.heads: {model.heads} does not divide model.width, {model.width}")
    need(
        model.width % 4 == 0,
        f"model.width: must be a multiple of 4 (sine positions in two directions), not {model.width}",
    )
    need(
        len(model.decoder_widths) > 0 and min(model.decoder_widths) > 0,
        "model.decoder_widths: needs at least one width, each above 0",
    )
    cell = 2 ** len(model.decoder_widths)
    need(
        data.size % cell == 0,
        f"data.size: must be a multiple of {cell}, for {len(model.decoder_widths)} decoder_widths, not {data.size}",
    )
    need(data.resize >= data.size, f"data.resize: {data.resize} is smaller than data.size, {data.size}")
    need(data.source != "scenes" or data.size >= 32, f"data.size: scenes are drawn from 32 pixels up, not {data.size}")
    need(
        data.source == "scenes" or bool(data.root),
        f"data.root: {data.source} needs the folder of the data set, as in --config.data.root=DIR",
    )
    need((train.steps > 0) != (train.epochs > 0), "train.steps, train.epochs: set one of the two above 0")
    need(
        train.batch % optimizer.accumulate == 0,
        f"optimizer.accumulate: {optimizer.accumulate} does not divide train.batch, {train.batch}",
    )
    need(
        model.reference or config.objective.drop_reference == 0,
        "objective.drop_reference: there is no reference to drop while model.reference is false",
    )
    axes = [config.mesh.data, config.mesh.fsdp, config.mesh.model]
    need(
        all(axis > 0 or axis == -1 for axis in axes) and axes.count(-1) <= 1,
        f"mesh: each axis must be above 0, and at most one -1 (all devices left), not {axes}",
    )
