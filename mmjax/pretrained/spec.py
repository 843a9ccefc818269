"""What a family of models describes itself by, and the reading of its config.json."""

import dataclasses
import re
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
from jaxtyping import Array, Float

from mmjax.files import finite
from mmjax.nn.compute import Compute
from mmjax.pretrained.layers import ACTIVATIONS
from mmjax.pretrained.names import Table
from mmjax.terminal import printable
from mmjax.types import UserError

LARGEST = 1 << 24  # of the whole numbers of a config.json
MOST_LAYERS = 1000
MOST_ENTRIES = 4096  # of a list
_COUNTS = re.compile(r"layers|_blocks|depths")  # in the names of fields that are, or are lists of, numbers of layers
_TUPLES = {tuple[int, ...]: int, tuple[float, ...]: float}


class Encoded(NamedTuple):
    """What an encoder gives: a feature per token or patch, class tokens first, and one for the whole input."""

    tokens: Float[Array, "b n d"]
    pooled: Float[Array, "b e"]


@dataclass(frozen=True)
class FamilySpec:
    """A family of pretrained models.

    Its module has the methods `encode_text(ids [b, t], mask [b, t]) -> Encoded`, `encode_image(image [b, y, x, c]) ->
    Encoded`, or both. That of an autoencoder has `encode(image [b, y, x, 3]) -> latents [b, v, u, c]` and its inverse
    `decode`, for images from -1 to 1 and latents of about unit variance; its config has `stride`, the pixels on a side
    of a latent, `channels`, and `scaling()`, which says how latents are scaled.

    Attributes:
        name: of the family.
        config: dataclass whose fields are those of config.json, with the defaults of transformers. Its `FIXED`, if
            any, are options with the one value that is supported, its `CHOICES` those with several.
        build: makes the module from the config.
        table: the tensors of the config's parameters.
        encodes: "text", "image" or both; of an autoencoder "latents".
        optional: fields of the config that are True where the checkpoint has a tensor of this name.
        renames: (pattern, replacement) from other names in use to those of the table.
        ignored: patterns of tensors that are not read: buffers, and parts that are not used here.
        buffers: patterns of tensors that are no parameters and are written back as they are, if they are there.
        tied: (copy, original) names of tensors that are the same; the copy is not read.
        architecture: config -> name of the class of transformers that has all tensors of the table, and no others.
        padded: texts have padding up to `max_position_embeddings`, as in its training; else up to the longest of them.
        parse: makes the config from the values of config.json; None: read_config.
    """

    name: str
    config: Any
    build: Callable[[Any, Compute], nn.Module]
    table: Callable[[Any], Table]
    encodes: tuple[str, ...]
    optional: Mapping[str, str] = dataclasses.field(default_factory=dict)
    renames: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    tied: tuple[tuple[str, str], ...] = ()
    architecture: Callable[[Any], str] | None = None
    padded: bool = False
    parse: Callable[[Mapping[str, Any], str], Any] | None = None

    def read(self, settings: Mapping[str, Any], where: str, has: Collection[str]) -> Any:
        """The config of a checkpoint from the values of its config.json.

        Args:
            where: the file, for messages.
            has: the fields of `optional` whose tensors it has.

        Raises:
            UserError: see read_config.
        """
        config = self.parse(settings, where) if self.parse else read_config(self.config, settings, where)
        return dataclasses.replace(config, **{field: field in has for field in self.optional})

    def text(self, config: Any) -> Any:
        """The part of a config that is of the text encoder."""
        return getattr(config, "text_config", config)

    def vision(self, config: Any) -> Any:
        """The part of a config that is of the image encoder."""
        return getattr(config, "vision_config", config)


def read_config(kind: type, values: Mapping[str, Any], where: str) -> Any:
    """A dataclass from the values of config.json; absent ones are defaults, those without a field are not read.

    Args:
        where: the file and section, for messages.

    Raises:
        UserError: for a value of another type or out of range, or an option that is not supported.
    """
    for name, fixed in getattr(kind, "FIXED", {}).items():
        if values.get(name, fixed) != fixed:
            raise UserError(f"{where}{name}: {_shown(values[name])} is not supported, only {_shown(fixed)}")
    hints = typing.get_type_hints(kind)
    given = {}
    for field in dataclasses.fields(kind):
        if values.get(field.name) is None and not dataclasses.is_dataclass(hints[field.name]):
            continue
        given[field.name] = _value(hints[field.name], values.get(field.name, {}), f"{where}{field.name}")
    for name, choices in {"hidden_act": ACTIVATIONS, **getattr(kind, "CHOICES", {})}.items():
        if given.get(name) not in (None, *choices):
            raise UserError(f"{where}{name}: {_shown(given[name])} is not supported, only {', '.join(sorted(choices))}")
    try:
        made = kind(**given)
    except ValueError as error:  # of values that do not fit together
        raise UserError(f"{where}{error}") from None
    width, heads = (getattr(made, name, 1) for name in ("hidden_size", "num_attention_heads"))
    if width % heads:
        raise UserError(f"{where}num_attention_heads: {heads} does not divide hidden_size, {width}")
    return made


def _value(kind: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, dict):
            raise UserError(f"{where}: must be an object, not {_shown(value)}")
        return read_config(kind, value, f"{where}.")
    if kind is int:
        least = 0 if where.endswith("_id") else 1
        most = MOST_LAYERS if _COUNTS.search(where.rpartition(" ")[2]) else LARGEST
        if type(value) is not int or not least <= value <= most:
            raise UserError(f"{where}: must be a whole number from {least} to {most:,}, not {_shown(value)}")
        return value
    if kind is float:
        field = where.rpartition(" ")[2]
        signed = "shift" in field or "mean" in field
        if isinstance(value, bool) or not finite(value) or not -LARGEST * signed <= value <= LARGEST:
            raise UserError(f"{where}: must be a number{'' if signed else ' from 0'}, not {_shown(value)}")
        return float(value)
    if kind in _TUPLES:
        if not isinstance(value, list) or len(value) > MOST_ENTRIES:
            raise UserError(f"{where}: must be a list of at most {MOST_ENTRIES:,} numbers, not {_shown(value)}")
        return tuple(_value(_TUPLES[kind], each, where) for each in value)
    if kind == tuple[str, ...]:  # the names of classes by number
        if not isinstance(value, dict) or sorted(value) != sorted(map(str, range(len(value)))):
            raise UserError(f"{where}: must be the names of classes by number, not {_shown(value)}")
        return tuple(str(value[str(number)]) for number in range(len(value)))
    if not isinstance(value, kind):
        raise UserError(f"{where}: must be a {kind.__name__}, not {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    return printable(repr(value))[:60]


def check_settings(values: Mapping[str, Any], path: Path) -> None:
    """Raises UserError for a config.json of a quantized model, or of one with code of its own."""
    if values.get("quantization_config"):
        method = values["quantization_config"]
        method = method.get("quant_method", "") if isinstance(method, dict) else method
        raise UserError(
            f"{path}: quantization_config: quantized weights ({_shown(method)}) are not read; take the checkpoint in "
            "float16, bfloat16 or float32"
        )
    if values.get("auto_map"):
        raise UserError(
            f"{path}: auto_map: the model is code of its own, {_shown(values['auto_map'])}, which never runs"
        )
