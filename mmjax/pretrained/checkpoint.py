"""Checkpoints of pretrained models: checked by their headers, loaded to where their parameters belong, written back."""

import os
import re
import shutil
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Float
from safetensors.numpy import save_file

from mmjax import registry
from mmjax.files import write_json
from mmjax.models import resnet, rules
from mmjax.models.rules import Rules
from mmjax.nn.compute import DEFAULT
from mmjax.pretrained import autoencoder_kl, names, siglip_big_vision
from mmjax.pretrained.names import Row, Table
from mmjax.pretrained.npz_files import NPZ
from mmjax.pretrained.safetensors_files import CONFIG, DTYPES, FLOATS, Tensor, listed, read_json
from mmjax.pretrained.spec import FamilySpec, check_settings
from mmjax.pretrained.weights import read_tensors
from mmjax.terminal import printable
from mmjax.types import FLOAT32, Params, UserError

# What names the family in config.json: of transformers, of diffusers, of timm.
KINDS = ("model_type", "_class_name", "architecture")
# Files beside the weights that are copied with them.
LICENSES = ("LICENSE", "LICENCE", "NOTICE", "COPYING", "USE_POLICY")  # beginnings of the names of others
BESIDE = (
    CONFIG,
    "1_Pooling/config.json",
    "README.md",
    "added_tokens.json",
    "config_sentence_transformers.json",
    "merges.txt",
    "modules.json",
    "preprocessor_config.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
RULES: Rules = rules.joined(
    (
        (r".*middle/attention/(q|k|v)/kernel", ("fsdp", None, None)),  # of one head
        (r".*middle/attention/(q|k|v)/bias", (None, None)),
        (r".*middle/attention/out/kernel", (None, None, "fsdp")),
        (r".*conv_in/kernel", (None, None, None, "fsdp")),
        (r".*conv_out/kernel", (None, None, "fsdp", None)),
        (r"(post_)?quant_conv/kernel", (None, None, None, None)),
        *resnet.RULES,
        (r"(encoder|decoder)/.*(first|second|third|shortcut|resize_\d+)/kernel", (None, None, "fsdp", "model")),
    ),
    rules.PRETRAINED,
)
PIECE = 16 << 20  # bytes


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose tensors are those of its config.

    Attributes:
        settings: the values of config.json.
        config: the part of them that the family reads.
        shapes: of the parameters, by their names.
        tensors: the tensors of the table by their names in it.
        original: their names in the file by those in the table.
        buffers: tensors that are no parameters, by their names in the file.
        unread: other tensors with numbers that it has, such as heads, by their names in the file.
    """

    folder: Path
    spec: FamilySpec
    settings: Mapping[str, Any]
    config: Any
    shapes: Mapping[str, tuple[int, ...]]
    tensors: Mapping[str, Tensor]
    original: Mapping[str, str]
    buffers: Mapping[str, Tensor]
    unread: tuple[str, ...] = ()

    @property
    def table(self) -> Table:
        """The table of its tensors."""
        return self.spec.table(self.config)

    def shape_tree(self) -> Any:
        """The shapes of the parameters as a tree, for sharding rules."""
        shapes = {name: jax.ShapeDtypeStruct(shape, FLOAT32) for name, shape in self.shapes.items()}
        return flax.traverse_util.unflatten_dict(shapes, sep="/")


def open_checkpoint(folder: Path, plugins: Iterable[str] = ()) -> Checkpoint:
    """Reads config.json and the headers of the weights of a folder, and compares them; allocates nothing.

    Of a folder of a whole pipeline of diffusers it is the autoencoder, the folder `vae` in it.

    Args:
        plugins: packages whose families its `model_type` may name; see mmjax.registry.check_plugins.

    Raises:
        UserError: for files that are missing or damaged, a family or an option that is not supported, and in one
            message all tensors that are missing, not used, or of another shape or type than the config says.
    """
    folder = model_folder(folder)
    path = folder / CONFIG
    if not os.path.exists(path):
        told = autoencoder_kl.missing_config(folder) or siglip_big_vision.missing_config(folder)
        if told:
            raise UserError(told)
    settings = read_json(path)
    check_settings(settings, path)
    spec = _family(settings, path, plugins)
    found, original = _renamed(folder, spec, read_tensors(folder))
    has = [field for field, tensor in spec.optional.items() if tensor in found]
    config = spec.read(settings, f"{path}: ", has)
    shapes = _shapes(spec, config)
    wanted = dict(names.wanted(spec.table(config), shapes))
    buffers = {name: found.pop(name) for name in list(found) if _matches(name, spec.buffers)}
    _check(folder, spec, found, wanted)
    tensors = {name: found[name] for name in wanted}
    kept = {original[name]: tensor for name, tensor in buffers.items() if tensor.dtype in DTYPES}
    unread = tuple(original[name] for name in found if name not in wanted and found[name].dtype in FLOATS)
    return Checkpoint(folder, spec, settings, config, shapes, tensors, original, kept, unread)


def model_folder(folder: Path) -> Path:
    """The folder of the model itself: of a pipeline of diffusers that of its autoencoder."""
    inner = folder / "vae"
    # Not Path.exists, which raises where a folder may not be read.
    return inner if not os.path.exists(folder / CONFIG) and os.path.exists(inner / CONFIG) else folder


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _family(settings: Mapping[str, Any], path: Path, plugins: Iterable[str]) -> FamilySpec:
    name, kind = next(((name, settings[name]) for name in KINDS if name in settings), ("", None))
    if not isinstance(kind, str):
        raise UserError(f"{path}: has no model_type; it is no config.json of a model in Hugging Face's layout")
    registry.check_plugins({"kind": kind}, plugins)
    spec: FamilySpec = registry.find("family", kind, f"{path}: {name}")
    return spec


def _renamed(folder: Path, spec: FamilySpec, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, and their names in the file, by the names of the table."""
    found: dict[str, Tensor] = {}
    original: dict[str, str] = {}
    for old, tensor in tensors.items():
        name = old
        for pattern, replacement in spec.renames:
            name = re.sub(pattern, replacement, name)
        if name in found:
            raise UserError(f"{folder}: {printable(old)} and {printable(original[name])} are the same tensor; keep one")
        found[name], original[name] = tensor, old
    for copy, name in spec.tied:
        if copy in found and name not in found:
            found[name], original[name] = found[copy], original[copy]
        elif copy in found and not equal(found[copy], found[name]):
            raise UserError(f"{folder}: {copy} and {name} should be the same, and differ; is it another architecture?")
        found.pop(copy, None)
    return found, original


def equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same bytes, of which few are in memory at a time."""
    if (a.dtype, a.shape, a.stop - a.start) != (b.dtype, b.shape, b.stop - b.start):
        return False
    with a.path.open("rb") as one, b.path.open("rb") as other:
        one.seek(a.start)
        other.seek(b.start)
        for left in range(a.stop - a.start, 0, -PIECE):
            if one.read(min(left, PIECE)) != other.read(min(left, PIECE)):
                return False
    return True


def _shapes(spec: FamilySpec, config: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters of a config by name."""
    module = spec.build(config, DEFAULT)
    vision = spec.vision(config)

    def encode(module: Any) -> None:
        if "text" in spec.encodes:
            module.encode_text(jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))
        if "image" in spec.encodes:
            module.encode_image(jnp.zeros((1, vision.image_size, vision.image_size, vision.num_channels)))
        if "latents" in spec.encodes:
            module.decode(module.encode(jnp.zeros((1, config.stride, config.stride, 3))))

    tree = jax.eval_shape(lambda: module.init(jax.random.key(0), method=encode)["params"])
    return {name: leaf.shape for name, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items()}


def _check(folder: Path, spec: FamilySpec, found: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raises UserError that lists all that is wrong with the tensors."""
    unused = [name for name in found if name not in wanted and not _matches(name, spec.ignored)]
    both = [(name, found[name], shape) for name, shape in wanted.items() if name in found]
    problems = {
        "without": sorted(wanted.keys() - found.keys()),
        "not known": sorted(unused),
        "of another shape": [f"{name} {[*x.shape]} for {[*shape]}" for name, x, shape in both if x.shape != shape],
        "of a type that is no floating-point number of 16 bits or more, as of quantized weights": [
            f"{name} {x.dtype}" for name, x, _ in both if x.dtype not in FLOATS
        ],
    }
    if any(problems.values()):
        told = "; ".join(f"{what}: {listed(list(each))}" for what, each in problems.items() if each)
        raise UserError(f"{folder}: its tensors are not those of {CONFIG} ({spec.name}): {told}")


def load(
    checkpoint: Checkpoint, shardings: Any = None, dtype: np.dtype = FLOAT32, only: Container[str] | None = None
) -> Params:
    """Loads the parameters.

    Each device is sent its part as it is read, so that a sharded parameter lies whole nowhere.

    Args:
        shardings: a tree of shardings like the parameters; None: the default device.
        dtype: of the parameters.
        only: names of those to load; None: all.

    Raises:
        UserError: for NaN or infinity.
    """
    rows = [row for row in checkpoint.table if only is None or row.leaf in only]
    flat = {} if shardings is None else flax.traverse_util.flatten_dict(shardings, sep="/")
    default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = {row.leaf: _place(checkpoint, row, flat.get(row.leaf, default), dtype) for row in rows}
    return flax.traverse_util.unflatten_dict(params, sep="/")


def _place(checkpoint: Checkpoint, row: Row, sharding: Sharding, dtype: np.dtype) -> jax.Array:
    shape = checkpoint.shapes[row.leaf]
    devices: dict[Any, list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        assert index is not None
        devices.setdefault(tuple(each.indices(size) for each, size in zip(index, shape, strict=True)), []).append(
            device
        )
    parts = []
    for spans, holders in devices.items():
        part = _read(checkpoint, row, tuple(slice(*span) for span in spans), dtype)
        parts += [jax.device_put(part, device) for device in holders]
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)


def _read(checkpoint: Checkpoint, row: Row, index: tuple[slice, ...], dtype: np.dtype) -> Float[np.ndarray, "..."]:
    """The part of a parameter at an index; only this part of the files is read."""
    shape = checkpoint.shapes[row.leaf]
    names = row.tensors(shape)
    chosen, rest = (names[index[0]], index[1:]) if row.stacked else (names, index)
    views = [row.to_leaf(checkpoint.tensors[name].array(), shape)[rest] for name in chosen]
    # In the order of the file, which is read much faster; the device's transfer transposes.
    order = sorted(range(views[0].ndim), key=lambda axis: -views[0].strides[axis])
    whole = np.empty((len(views), *(views[0].shape[axis] for axis in order)), dtype)
    for i, view in enumerate(views):
        with np.errstate(over="ignore"):
            whole[i] = view.transpose(order)
        if not np.isfinite(whole[i]).all():
            path = checkpoint.tensors[chosen[i]].path
            raise UserError(f"{path}: {printable(checkpoint.original[chosen[i]])} holds NaN or infinite numbers")
    part = whole.transpose(0, *(1 + order.index(axis) for axis in range(len(order))))
    return part if row.stacked else part[0, ...]


def sharding_rules(shapes: Iterable[str]) -> Rules:
    """The sharding rules that parameters of these names need."""
    return rules.used(RULES, shapes)


def write(folder: Path, checkpoint: Checkpoint, params: Params, dtype: str = "") -> None:
    """Writes parameters as a folder like that of a checkpoint, under the names and in the layouts that it has.

    What is beside the weights comes along: tokenizer, preprocessing, model card, license. Where the checkpoint has
    tensors that are not read, `architectures` in config.json becomes the class that has those that are written.

    Args:
        params: of the checkpoint, maybe trained further.
        dtype: of all tensors in safetensors' words, such as "F32"; "": each as in the checkpoint.

    Raises:
        UserError: where the folder cannot be written.
    """
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    parts: dict[str, list[np.ndarray]] = {}
    for row in checkpoint.table:
        shape = checkpoint.shapes[row.leaf]
        value = np.asarray(jax.device_get(flat[row.leaf]))
        layers = list(value) if row.stacked else [value]
        for name, each in zip(row.tensors(shape), layers, strict=True):
            parts.setdefault(name, []).append(row.to_tensor(each, shape))
    arrays = {}
    for name, pieces in parts.items():
        whole = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
        to = FLOATS[dtype or checkpoint.tensors[name].dtype]
        arrays[checkpoint.original[name]] = np.ascontiguousarray(whole.astype(to)).reshape(whole.shape)
    arrays |= {name: each.array() for name, each in checkpoint.buffers.items()}
    # Of several files and their index the one of which they are the parts.
    file = re.sub(r"-\d{5}-of-\d{5}", "", next(iter(checkpoint.tensors.values())).path.name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if file.endswith(NPZ):
            np.savez(folder / file, **arrays)  # type: ignore[arg-type]
        else:
            save_file(arrays, folder / file, {"format": "pt"})
        if folder.resolve() != checkpoint.folder.resolve():
            for name in _beside(checkpoint):
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(checkpoint.folder / name, folder / name)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from error
    if checkpoint.unread and checkpoint.spec.architecture:
        architectures = [checkpoint.spec.architecture(checkpoint.config)]
        write_json(folder / CONFIG, {**checkpoint.settings, "architectures": architectures})


def _beside(checkpoint: Checkpoint) -> Iterator[str]:
    """Yields the names of the files of a checkpoint that are copied."""
    for name in BESIDE:
        if (checkpoint.folder / name).is_file():
            yield name
    for path in sorted(checkpoint.folder.iterdir()):
        if path.name.upper().startswith(LICENSES) and path.is_file():
            yield path.name
