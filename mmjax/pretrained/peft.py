"""LoRAs of pretrained models in the layout of PEFT: adapter_config.json and adapter_model.safetensors.

There the addition to a linear layer X is alpha / r * lora_B lora_A, with tensors `base_model.model.X.lora_A.weight`
[r, in] and `base_model.model.X.lora_B.weight` [out, r].
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.traverse_util
import numpy as np
from jaxtyping import Float
from safetensors.numpy import save

from mmjax.files import finite, write_file, write_json
from mmjax.pretrained.checkpoint import Checkpoint
from mmjax.pretrained.names import Row
from mmjax.pretrained.safetensors_files import FLOATS, listed, read_header, read_json
from mmjax.terminal import printable
from mmjax.types import FLOAT32, Params, UserError

CONFIG, FILE = "adapter_config.json", "adapter_model.safetensors"
PREFIX, SIDES = "base_model.model.", {"a": ".lora_A.weight", "b": ".lora_B.weight"}
# Options of which only these values, or none, are what is done here (names and formula as in PEFT 0.21.2).
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "use_dora": (False,),
    "lora_bias": (False,),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "modules_to_save": ([],),
    "layer_replication": ([],),
    "use_qalora": (False,),
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),  # others change the kernels as well
    **dict.fromkeys(("alora_invocation_tokens", "arrow_config", "kasa_config", "monteclora_config", "use_bdlora"), ()),
}
Place = tuple[Row, int]  # a row of the table, and the number of the layer


def is_peft(path: Path) -> bool:
    """Whether a folder holds a LoRA in PEFT's layout."""
    return (path / CONFIG).is_file()


def read_peft(folder: Path, checkpoint: Checkpoint) -> tuple[Params, float]:
    """Reads a LoRA of a checkpoint.

    Returns:
        Its matrices, `.../kernel/a` and `.../kernel/b`, and the factor of their product. Layers without any have zeros.

    Raises:
        UserError: where files are missing or damaged, for options that are not supported, and for tensors of other
            layers or shapes than the checkpoint has.
    """
    scale = _scale(folder / CONFIG)
    if not (folder / FILE).is_file():
        raise UserError(f"{folder}: has no {FILE}; save the LoRA again with save_pretrained of PEFT")
    tensors = read_header(folder / FILE)
    places = _places(checkpoint)
    found: dict[str, dict[int, dict[str, np.ndarray]]] = {}
    unknown = []
    for name, tensor in tensors.items():
        side = next((side for side, ending in SIDES.items() if name.endswith(ending)), "")
        module = name.removeprefix(PREFIX).removesuffix(SIDES.get(side, ""))
        place = places.get(_renamed(f"{module}.weight", checkpoint)) if side else None
        if place is None or tensor.dtype not in FLOATS:
            unknown.append(name)
            continue
        values = tensor.array().astype(FLOAT32)
        if not np.isfinite(values).all():
            raise UserError(f"{folder / FILE}: {printable(name)} holds NaN or infinite numbers")
        row, layer = place
        found.setdefault(row.leaf, {}).setdefault(layer, {})[side] = values
    if unknown or not found:
        told = f"{listed(sorted(unknown))} add to no linear layer" if unknown else "holds no LoRA"
        raise UserError(f"{folder / FILE}: {told} of this {checkpoint.spec.name}; is it of another model?")
    rows = {row.leaf: row for row, _ in places.values()}
    tree = {
        f"{leaf}/{side}": matrix
        for leaf, layers in found.items()
        for side, matrix in _matrices(folder / FILE, checkpoint, rows[leaf], layers).items()
    }
    return flax.traverse_util.unflatten_dict(tree, sep="/"), scale


def _scale(path: Path) -> float:
    """The factor of the product that an adapter_config.json tells."""
    values = read_json(path)
    for name, plain in PLAIN.items():
        if (value := values.get(name)) not in (None, *plain):
            raise UserError(
                f"{path}: {name}: {printable(repr(value))[:60]} is not supported, only {next(iter(plain), None)!r}"
            )
    rank, alpha = values.get("r"), values.get("lora_alpha", 8)
    if type(rank) is not int or rank <= 0 or not finite(alpha):
        raise UserError(f"{path}: r, lora_alpha: must be a whole number above 0 and a number, not {rank!r}, {alpha!r}")
    return float(alpha) / (math.sqrt(rank) if values.get("use_rslora") else rank)


def _places(checkpoint: Checkpoint) -> dict[str, Place]:
    """The linear layers of a checkpoint by the names of their tensors: those whose leaf has inputs, then outputs."""
    places: dict[str, Place] = {}
    for row in checkpoint.table:
        shape = checkpoint.shapes[row.leaf]
        if row.part == (0, 1) and row.leaf.endswith("/kernel") and len(row.tensor_shape(shape)) == 2:
            places |= {name: (row, layer) for layer, name in enumerate(row.tensors(shape))}
    return places


def _renamed(name: str, checkpoint: Checkpoint) -> str:
    for pattern, replacement in checkpoint.spec.renames:
        name = re.sub(pattern, replacement, name)
    return name


def _matrices(
    path: Path, checkpoint: Checkpoint, row: Row, layers: dict[int, dict[str, np.ndarray]]
) -> dict[str, Float[np.ndarray, "..."]]:
    """The matrices a and b of a kernel of those of its layers."""
    shape = checkpoint.shapes[row.leaf]
    outputs, inputs = row.tensor_shape(shape)
    own = shape[row.stacked :]
    split = next(i for i in range(len(own) + 1) if math.prod(own[:i]) == inputs and math.prod(own[i:]) == outputs)
    names = row.tensors(shape)
    ranks = {pair["a"].shape[0] for pair in layers.values() if pair.keys() == SIDES.keys()}
    rank = max(ranks, default=0)
    a = np.zeros((len(names), *own[:split], rank), FLOAT32)
    b = np.zeros((len(names), rank, *own[split:]), FLOAT32)
    for layer, pair in layers.items():
        shapes = {side: list(matrix.shape) for side, matrix in pair.items()}
        if shapes != {"a": [rank, inputs], "b": [outputs, rank]}:
            raise UserError(
                f"{path}: the matrices of {names[layer].removesuffix('.weight')}, {shapes.get('a')} and "
                f"{shapes.get('b')}, are none of one rank for {inputs} inputs and {outputs} outputs"
            )
        a[layer] = pair["a"].T.reshape(a.shape[1:])
        b[layer] = pair["b"].T.reshape(b.shape[1:])
    return {"a": a, "b": b} if row.stacked else {"a": a[0], "b": b[0]}


def write_peft(folder: Path, checkpoint: Checkpoint, added: Params, alpha: float) -> None:
    """Writes a LoRA of a checkpoint, `.../kernel/a` and `.../kernel/b` of one rank, in PEFT's layout.

    Raises:
        UserError: for a kernel that is no linear layer there, or where the folder cannot be written.
    """
    flat = {name: np.asarray(leaf, FLOAT32) for name, leaf in flax.traverse_util.flatten_dict(added, sep="/").items()}
    places = _places(checkpoint)
    leaves = {name.rpartition("/")[0] for name in flat}
    if others := leaves - {row.leaf for row, _ in places.values()}:
        raise UserError(f"{listed(sorted(others))}: no linear layer of {checkpoint.spec.name}, which PEFT could add to")
    arrays, modules = {}, []
    for name, (row, layer) in places.items():
        if row.leaf not in leaves:
            continue
        a, b = (flat[f"{row.leaf}/{side}"][layer if row.stacked else ...] for side in "ab")
        module = checkpoint.original[name].removesuffix(".weight")
        modules.append(module)
        rank = a.shape[-1]
        arrays[f"{PREFIX}{module}{SIDES['a']}"] = np.ascontiguousarray(a.reshape(-1, rank).T)
        arrays[f"{PREFIX}{module}{SIDES['b']}"] = np.ascontiguousarray(b.reshape(rank, -1).T)
    settings = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(checkpoint.folder),
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": modules,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    write_file(folder / FILE, save(arrays, {"format": "pt"}))
    write_json(folder / CONFIG, settings)
