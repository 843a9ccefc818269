"""Safetensors files, mapped into memory, checked by their headers."""

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


def listed(names: list[str], most: int = 40) -> str:
    """Names in a line; of very many the first ones."""
    return ", ".join(map(printable, names[:most])) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def check_inside(path: Path, name: str) -> None:
    """Raises UserError for the name, in a file at this path, of a file that might not lie in the same folder."""
    if PurePath(name).is_absolute() or not name or set(name) & set("\\:") or ".." in PurePath(name).parts:
        raise UserError(
            f"{path}: names {printable(name)}, which is not in its folder; names are as in model.safetensors"
        )


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
