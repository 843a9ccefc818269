"""Safetensors files, mapped into memory, alone or as several with an index, checked by their headers."""

import json
import math
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped

from mmjax.files import UNREADABLE, check_regular, read_file
from mmjax.terminal import printable
from mmjax.types import UserError

FLOATS = {
    name: np.dtype(dtype)
    for name, dtype in (("F64", np.float64), ("F32", np.float32), ("F16", np.float16), ("BF16", jnp.bfloat16))
}
DTYPES = FLOATS | {"I64": np.dtype(np.int64)}  # of tensors that are read
MAX_HEADER = 100 << 20  # bytes, as in the safetensors library
CONFIG = "config.json"
MAX_JSON = 64 << 20  # bytes of an index or a config.json
FILES = ("model.safetensors", "diffusion_pytorch_model.safetensors")  # of transformers and diffusers
FILE, INDEX = FILES[0], ".index.json"
PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
CONVERT = (
    'python -c "import torch, safetensors.torch as s; s.save_file({{k: v.clone() for k, v in '
    "torch.load('{name}', 'cpu', weights_only=True).items()}}, 'model.safetensors', {{'format': 'pt'}})\""
)


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file: its dtype in safetensors' words, its shape, and the span of its bytes."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    def array(self) -> Shaped[np.ndarray, "..."]:
        """The tensor of one of DTYPES, mapped into memory: of the file only what is used is read."""
        if self.start == self.stop:
            return np.zeros(self.shape, DTYPES[self.dtype])
        return np.memmap(self.path, DTYPES[self.dtype], "r", self.start, self.shape)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors by name of model.safetensors or diffusion_pytorch_model.safetensors, of the files of the index of
    one of them, or of the only safetensors file. Only headers are read.

    Raises:
        UserError: where there is none, a file is missing, truncated or damaged, or the index is of other files.
    """
    for name in FILES:
        if (folder / name).exists():
            return read_header(folder / name)
        if (folder / (name + INDEX)).exists():
            return _of_index(folder, folder / (name + INDEX))
    found = weights_in(folder)
    if len(found) == 1:
        return read_header(found[0])
    if found:
        names = listed([path.name for path in found])
        raise UserError(f"{folder}: has {names}, and none of them is called {' or '.join(FILES)}; keep one of them")
    raise UserError(_without_weights(folder))


def weights_in(folder: Path) -> list[Path]:
    """The safetensors files of a folder."""
    return sorted(path for path in folder.iterdir() if path.suffix == ".safetensors")


def _of_index(folder: Path, path: Path) -> dict[str, Tensor]:
    index = read_json(path).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(file, str) for file in index.values()):
        raise UserError(f"{path}: has no weight_map of tensor names to files; copy it again")
    files = sorted(set(index.values()))
    for file in files:
        check_inside(path, file)
    if absent := [file for file in files if not (folder / file).is_file()]:
        raise UserError(f"{folder}: lacks {listed(absent)} of {path.name}; copy all files of the model")
    tensors = {file: read_header(folder / file) for file in files}
    found = {name: file for file, header in tensors.items() for name in header}
    if others := sorted(name for name in index.keys() | found.keys() if index.get(name) != found.get(name)):
        raise UserError(f"{path}: is not of the files beside it; they differ in {listed(others)}")
    return {name: tensors[file][name] for name, file in found.items()}


def _without_weights(folder: Path) -> str:
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    return unsafe(folder / pickles[0]) if pickles else f"{folder}: has no {FILE}, nor another .safetensors file"


def unsafe(path: Path) -> str:
    """Says that a file of Python's pickle is not read, and how to convert it."""
    return f"{path}: is a pickle, which can run any code and is not read; convert it: " + CONVERT.format(name=path.name)


def listed(names: list[str], most: int = 40) -> str:
    """Names in a line; of very many the first ones."""
    return ", ".join(map(printable, names[:most])) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def check_inside(path: Path, name: str) -> None:
    """Raises UserError for the name, in a file at this path, of a file that might not lie in the same folder."""
    if PurePath(name).is_absolute() or not name or set(name) & set("\\:") or ".." in PurePath(name).parts:
        raise UserError(f"{path}: names {printable(name)}, which is not in its folder; names are as in {FILE}")


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors by name of a safetensors file, from its header.

    Raises:
        UserError: where it does not describe the file, byte for byte.
    """
    check_regular(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(size - 8, MAX_HEADER):
            raise UserError(f"{path}: is no safetensors file, or only a part of one; copy it again")
        content = file.read(length)
    try:
        header = json.loads(content)
        header.pop("__metadata__", None)
        found = {name: _tensor(path, 8 + length, **entry) for name, entry in header.items()}
    except (*UNREADABLE, AttributeError, TypeError) as error:
        raise UserError(f"{path}: its header is damaged ({' '.join(str(error).split())[:80]}); copy it again") from None
    end = 8 + length
    for tensor in sorted(found.values(), key=lambda each: (each.start, each.stop)):
        if tensor.start != end:
            raise UserError(f"{path}: its header is damaged (tensors overlap or leave gaps); copy it again")
        end = tensor.stop
    if end != size:
        raise UserError(f"{path}: has {size:,} bytes, its header says {end:,}; copy it again")
    return found


def _tensor(path: Path, first: int, dtype: str, shape: list[int], data_offsets: list[int]) -> Tensor:
    start, stop = data_offsets
    if not all(type(number) is int and 0 <= number < 1 << 60 for number in (*shape, start, stop)) or start > stop:
        raise ValueError("sizes are no whole numbers")
    if dtype in DTYPES and stop - start != math.prod(shape) * DTYPES[dtype].itemsize:
        raise ValueError(f"{dtype} {shape} are not {stop - start} bytes")
    return Tensor(path, str(dtype), tuple(shape), first + start, first + stop)


def read_json(path: Path) -> dict[str, Any]:
    """The object of a JSON file.

    Raises:
        UserError: where the file is missing or damaged, or holds no object.
    """
    try:
        value = json.loads(read_file(path, MAX_JSON).decode())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; copy all files of the model") from None
    except UNREADABLE as error:
        raise UserError(f"{path}: is no JSON ({' '.join(str(error).split())[:80]}); copy it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: must be a JSON object, not a {type(value).__name__}; copy it again")
    return value
