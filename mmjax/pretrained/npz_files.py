"""NumPy's npz files, of arrays that are not compressed, mapped into memory and checked by their headers."""

import io
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mmjax.files import UNREADABLE, check_regular
from mmjax.pretrained.safetensors_files import DTYPES, Tensor
from mmjax.terminal import printable
from mmjax.types import UserError

NPZ, NPY = ".npz", ".npy"
MAX_HEADER = 64 << 10  # bytes of the description of an array
LOCAL = 30  # bytes of the fixed part of a zip file's local header
NAMES = {dtype: name for name, dtype in DTYPES.items()} | {np.dtype("V2"): "BF16"}  # NumPy has no bfloat16


def read_npz(path: Path) -> dict[str, Tensor]:
    """The tensors by name of an npz file, from its headers.

    Raises:
        UserError: where it is damaged, compressed, or has arrays of objects or in Fortran's order.
    """
    check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            entries = [each for each in archive.infolist() if each.filename.endswith(NPY)]
            return {each.filename.removesuffix(NPY): _tensor(path, file, each) for each in entries}
    except (*UNREADABLE, zipfile.BadZipFile, NotImplementedError, EOFError, SyntaxError, TypeError) as error:
        raise UserError(f"{path}: is damaged ({' '.join(str(error).split())[:80]}); copy it again") from None


def _tensor(path: Path, file: BinaryIO, entry: zipfile.ZipInfo) -> Tensor:
    name = printable(entry.filename)
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise UserError(f"{path}: {name} is compressed; write the arrays again with numpy.savez")
    file.seek(entry.header_offset)
    local = file.read(LOCAL)
    # The lengths of the name and of the extra field, which may differ from those of the central directory.
    first = (
        entry.header_offset + LOCAL + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
    )
    file.seek(first)
    head = io.BytesIO(file.read(min(entry.file_size, MAX_HEADER)))
    version = np.lib.format.read_magic(head)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(head)
    if dtype.hasobject:
        raise UserError(f"{path}: {name} holds Python objects, a pickle, which can run any code and is not read")
    if is_fortran and len(shape) > 1:
        raise UserError(
            f"{path}: {name} is in Fortran's order; write the arrays again, each by numpy.ascontiguousarray"
        )
    start, stop = first + head.tell(), first + entry.file_size
    if stop > path.stat().st_size or stop - start != np.prod(shape, dtype=object) * dtype.itemsize:
        raise ValueError(f"{name} of shape {list(shape)} is not {stop - start} bytes")
    return Tensor(path, NAMES.get(dtype, str(dtype)), tuple(shape), start, stop)
