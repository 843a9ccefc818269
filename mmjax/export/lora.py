"""Files of LoRAs: the model that one adds to, in its workdir, and LoRAs alone, to be added to a model when loading."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import flax.traverse_util
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors import numpy as safetensors

from mmjax import pretrained
from mmjax.config import Config
from mmjax.export.model_folder import flatten
from mmjax.files import check_regular, params_digest, read_parameters, write_file
from mmjax.train import lora
from mmjax.types import Params, UserError

BASE = "base.safetensors"  # in a workdir
FORMAT = "mmjax-lora"
EXAMPLE = "mmjax export --workdir=WORKDIR --lora=alone --out=FILE.safetensors writes one"


@dataclass(frozen=True)
class Lora:
    """A LoRA.

    Attributes:
        params: its matrices, `.../kernel/a` and `.../kernel/b`.
        scale: factor of their product.
        base: digest of the kernels that it was trained with; "": not known.
    """

    params: Params
    scale: float
    base: str = ""


def write_base(workdir: Path, params: Mapping[str, np.ndarray]) -> None:
    """Copies the model that a LoRA adds to, its parameters by name, to the workdir of the LoRA."""
    arrays = {name: np.ascontiguousarray(leaf).reshape(np.shape(leaf)) for name, leaf in params.items()}
    write_file(workdir / BASE, safetensors.save(arrays, {"format": "mmjax"}))


def read_base(workdir: Path, shapes: Params | None = None) -> Params:
    """Reads the model that a LoRA adds to.

    Args:
        shapes: of its parameters; None: any.

    Raises:
        UserError: where it is missing or damaged, or of another config.
    """
    path = workdir / BASE
    wanted = None if shapes is None else {name: leaf.shape for name, leaf in flatten(shapes).items()}
    try:
        found = read_parameters(path, wanted)
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file; the checkpoints hold a LoRA alone, and not the model that it adds to: restore it"
        ) from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    return flax.traverse_util.unflatten_dict(found, sep="/")


def digest(params: Params, added: Params) -> str:
    """SHA-256 of the kernels of a model that a LoRA adds to."""
    flat = flatten(params)
    return params_digest({name: np.asarray(flat[name], np.float32) for name in kernels(added)})


def kernels(added: Params) -> list[str]:
    """Names of the kernels that a LoRA adds to."""
    return sorted({name.rpartition("/")[0] for name in flatten(added)})


def write_lora(path: Path, config: Config, added: Params, base: Params) -> None:
    """Writes a LoRA alone as one file.

    Args:
        config: of its training.
        base: parameters of the model that it was trained with.

    Raises:
        UserError: if it cannot be written.
    """
    about = {
        "format": FORMAT,
        "name": config.name,
        "rank": str(config.lora.rank),
        "alpha": str(config.lora.alpha or config.lora.rank),
        "base": digest(base, added),
    }
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in flatten(added).items()}
    write_file(path, safetensors.save(arrays, about))


def read_lora(path: Path) -> Lora:
    """Reads the file of a LoRA.

    Raises:
        UserError: where it is missing or damaged, or no LoRA of mmjax.
    """
    try:
        check_regular(path)
        if path.is_dir():
            raise UserError(f"{path}: is a folder; name the file of a LoRA: {EXAMPLE}")
        with safe_open(path, "numpy") as file:
            about = file.metadata() or {}
        if about.get("format") != FORMAT:
            raise UserError(f"{path}: is no LoRA of mmjax; {EXAMPLE}")
        scale = float(about["alpha"]) / int(about["rank"])
        if not math.isfinite(scale):
            raise ValueError(f"alpha / rank is {scale}")
        return Lora(read_parameters(path), scale, about.get("base", ""))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {EXAMPLE}") from None
    except (OSError, SafetensorError, ValueError, KeyError, ZeroDivisionError) as error:
        raise UserError(f"{path}: cannot be read as a LoRA of mmjax: {error}") from error


def check_lora(path: Path, added: Lora, params: Params) -> None:
    """Raises UserError unless a LoRA is one of a model with these parameters."""
    flat, matrices = flatten(params), flatten(added.params)
    for name in kernels(added.params):
        if name not in flat:
            raise UserError(f"{path}: adds to {name}, which this model does not have; name one of this model")
        shape, sides = flat[name].shape, [matrices.get(f"{name}/{side}") for side in "ab"]
        shapes = [list(each.shape) if each is not None else None for each in sides]
        if not _fits(shape, *sides):
            raise UserError(
                f"{path}: its matrices for {name}, {shapes[0]} and {shapes[1]}, are none of one rank for "
                f"{list(shape)}; name a LoRA of this model"
            )
    if added.base and added.base != digest(params, added.params):
        raise UserError(
            f"{path}: was trained with another model of these shapes; name the one that its training started from"
        )


def _fits(kernel: tuple[int, ...], a: np.ndarray | None, b: np.ndarray | None) -> bool:
    """Whether a b has the shape of a kernel; where it has an axis of layers, these have it as well."""
    if a is None or b is None:
        return False
    stacked = a.ndim + b.ndim - len(kernel)
    layers = kernel[:1] if stacked == 3 else ()
    n = len(layers)
    return (
        stacked in (2, 3)
        and min(a.ndim, b.ndim) > n + 1
        and a.shape[:n] == b.shape[:n] == layers
        and a.shape[-1] == b.shape[n]
        and (*layers, *a.shape[n:-1], *b.shape[n + 1 :]) == kernel
    )


def with_loras(
    params: Params, loras: Mapping[str | Path, float], checkpoint: pretrained.Checkpoint | None = None
) -> Params:
    """The parameters of a model with LoRAs added, each times its weight.

    Args:
        loras: files and their weights; of a pretrained model, files or folders in PEFT's layout.
        checkpoint: of a pretrained model.

    Raises:
        UserError: for a file that is no LoRA of this model, or a weight that is no finite number.
    """
    found = {}
    for path, weight in loras.items():
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
            raise UserError(f"lora: the weight of {path} must be a finite number, such as 0.8, not {weight!r}")
        if pretrained.is_peft(Path(path)):
            if checkpoint is None:
                raise UserError(f"{path}: is in PEFT's layout, for pretrained models of others; {EXAMPLE}")
            found[path] = Lora(*pretrained.read_peft(Path(path), checkpoint))
        else:
            found[path] = read_lora(Path(path))
        check_lora(Path(path), found[path], params)
    for path, added in found.items():
        tree = flax.traverse_util.unflatten_dict(dict(flatten(added.params)), sep="/")
        params = lora.merged(params, tree, added.scale * loras[path])
    return params
