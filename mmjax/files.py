"""Files of bounded size, tensors that are checked, files written atomically, and JSON Lines as far as complete."""

import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import jax
import numpy as np
from safetensors import safe_open

from mmjax.terminal import printable
from mmjax.types import Params, UserError, leaf_name

MAX_EXAMPLE = 512 << 20  # bytes of an image
MAX_INFORMING = 64 << 20  # bytes of a file that only informs

logger = logging.getLogger(__name__)


def read_regular(path: Path) -> bytes:
    """The content of an example's file; raises OSError, as for a damaged one, for a FIFO, a device or a huge file."""
    if not is_regular(path):
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    if path.stat().st_size > MAX_EXAMPLE:
        raise OSError(errno.EINVAL, f"is larger than {MAX_EXAMPLE >> 20} MiB", str(path))
    return path.read_bytes()


def read_file(path: Path, most: int) -> bytes:
    """Reads a file of at most so many bytes.

    Raises:
        OSError: where it cannot be read.
        UserError: for a FIFO or a device, which may never end, and for a larger file.
    """
    check_regular(path)
    if path.stat().st_size > most:
        raise UserError(f"{path}: is larger than {most >> 20} MiB")
    return path.read_bytes()


def check_regular(path: Path) -> None:
    """Raises UserError for a FIFO, a device or a socket, of which a read may never end."""
    if not is_regular(path):
        raise UserError(f"{path}: is no regular file")


def is_regular(path: Path) -> bool:
    """Whether a read of a file or folder ends; raises OSError where there is none."""
    mode = path.stat().st_mode
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)


def names_in(folder: Path) -> set[str]:
    """Names of the files in a folder, which may be the top of a file system: without ext4's folder of lost files."""
    return set(os.listdir(folder)) - {"lost+found"}


def read_parameters(path: Path, shapes: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, np.ndarray]:
    """Reads the parameters of a safetensors file, whose header is checked before.

    Args:
        shapes: by name, of all of them; None: any.

    Raises:
        OSError, SafetensorError: where it cannot be read.
        UserError: for other parameters than these, or what cannot be one.
    """
    check_regular(path)
    path.open("rb").close()  # safetensors would say that there is no such file where it may not be read
    with safe_open(path, "numpy") as file:
        header = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        if shapes is not None:
            check_shapes(path, {name: tuple(tensor.get_shape()) for name, tensor in header.items()}, shapes)
        for name, tensor in header.items():
            check_dtype(path, name, tensor.get_dtype())
        arrays = {name: file.get_tensor(name) for name in header}
    check_finite(path, arrays)
    return arrays


def check_dtype(path: Path, name: str, dtype: str) -> None:
    """Raises UserError for a parameter of a safetensors type that is no floating-point number, or of 8 bits."""
    if dtype not in ("F64", "F32", "F16", "BF16"):
        raise UserError(f"{path}: {printable(name)} is {dtype}; parameters are floating-point numbers, such as F32")


def check_finite(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises UserError for a parameter with NaN or infinity, in float32 as it is used."""
    for name, array in arrays.items():
        with np.errstate(over="ignore"):
            numbers = array.astype(np.float32) if array.dtype == np.float64 else array
        if not np.isfinite(numbers).all():
            raise UserError(f"{path}: {printable(name)} holds NaN or infinite numbers; export the model again")


def check_shapes(path: Path, found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> None:
    """Raises UserError where parameters are missing, unexpected or of another shape than the config says."""
    for name in sorted(found.keys() | wanted.keys()):
        if name not in found or name not in wanted:
            what = "has no" if name in wanted else "has an unexpected"
            raise UserError(f"{path}: {what} parameter {printable(name)}; is it of another config?")
        if found[name] != wanted[name]:
            raise UserError(f"{path}: {name} has shape {found[name]}, the config says {wanted[name]}")


def params_digest(params: Params) -> str:
    """SHA-256 of the names, dtypes, shapes and bytes of all parameters, ordered by name."""
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    for name, leaf in sorted((leaf_name(path), leaf) for path, leaf in leaves):
        values = np.ascontiguousarray(leaf)
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(values.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def write_file(path: Path, content: bytes) -> None:
    """Writes a file atomically, where a link to it leads; makes its folder.

    Raises:
        UserError: where it cannot be written; a previous file is kept.
    """
    target = Path(os.path.realpath(path))  # a link stays one, to the new content
    temporary = _temporary(target)
    try:
        _check_replaceable(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def _check_replaceable(path: Path) -> None:
    """Raises UserError for a device or a pipe, which root could replace by a file."""
    with contextlib.suppress(OSError):  # there is none, or it is told by who writes it
        check_regular(path)


def _temporary(path: Path) -> Path:
    return path.parent / f".{path.name}.{os.getpid()}.tmp"


def check_writable(path: Path, folder: bool = False) -> None:
    """Checks by trying that a file can be written at a path, or files in a folder at it; leaves nothing behind.

    Raises:
        UserError: where it cannot be written. What is missing can be made.
    """
    try:
        if path.is_dir() and not folder:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        _check_replaceable(path)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            _temporary(path).lstat()  # fails if the name is too long
        whole = path.absolute()
        nearest = next(each for each in ((whole,) * folder + tuple(whole.parents)) if os.path.lexists(each))
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from error


def remove(path: Path) -> None:
    """Removes a file; raises UserError where it cannot be removed."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be removed: {error.strerror or error}") from error


def write_json(path: Path, value: Any) -> None:
    """Writes a value as indented JSON, atomically."""
    write_file(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


UNREADABLE = (OSError, ValueError, RecursionError)  # what json raises for a file that is damaged


def finite(value: Any) -> TypeGuard[float]:
    """Whether a value from a file is a number that a float can hold."""
    try:
        return isinstance(value, (int, float)) and math.isfinite(value)
    except OverflowError:
        return False


def read_object(path: Path) -> dict[str, Any]:
    """The object of a JSON file that only informs; empty where there is none or, with a warning, it is damaged."""
    try:
        value = json.loads(read_file(path, MAX_INFORMING).decode())
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
    except FileNotFoundError:
        return {}
    except (*UNREADABLE, UserError) as error:
        logger.warning("%s: is damaged and left out: %s", path, " ".join(str(error).split()))
        return {}
    return value


def read_lines(path: Path) -> Iterable[dict[str, Any]]:
    """Yields the flat objects of a JSON Lines file. Other lines, such as a half-written one, are skipped."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except UNREADABLE:
                continue
            if isinstance(row, dict) and not any(isinstance(value, (dict, list)) for value in row.values()):
                yield row
