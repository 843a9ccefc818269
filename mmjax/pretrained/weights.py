"""The weights of a folder: one file, several with an index, or in the layout of big_vision."""

from pathlib import Path

from mmjax.pretrained.npz_files import NPZ, read_npz
from mmjax.pretrained.safetensors_files import Tensor, check_inside, listed, read_header, read_json
from mmjax.types import UserError

FILES = ("model.safetensors", "diffusion_pytorch_model.safetensors", f"model{NPZ}")  # of transformers and diffusers
FILE, INDEX = FILES[0], ".index.json"
PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
CONVERT = (
    'python -c "import torch, safetensors.torch as s; s.save_file({{k: v.clone() for k, v in '
    "torch.load('{name}', 'cpu', weights_only=True).items()}}, 'model.safetensors', {{'format': 'pt'}})\""
)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors by name of one of FILES, of the files of the index of one, or of the only safetensors or npz file.

    Only headers are read.

    Raises:
        UserError: where there is none, a file is missing, truncated or damaged, or the index is of other files.
    """
    for name in FILES:
        if (folder / name).exists():
            return read_weights(folder / name)
        if (folder / (name + INDEX)).exists():
            return _of_index(folder, folder / (name + INDEX))
    found = weights_in(folder)
    if len(found) == 1:
        return read_weights(found[0])
    if found:
        names = listed([path.name for path in found])
        raise UserError(f"{folder}: has {names}, and none of them is called {' or '.join(FILES)}; keep one of them")
    raise UserError(_without_weights(folder))


def weights_in(folder: Path) -> list[Path]:
    """The files of weights in a folder; none where it cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in (".safetensors", NPZ) and path.is_file())
    except OSError:
        return []


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors by name of a safetensors or npz file."""
    return read_npz(path) if path.suffix == NPZ else read_header(path)


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
    return unsafe(folder / pickles[0]) if pickles else f"{folder}: has no {FILE}, nor another .safetensors or .npz file"


def unsafe(path: Path) -> str:
    """Says that a file of Python's pickle is not read, and how to convert it."""
    return f"{path}: is a pickle, which can run any code and is not read; convert it: " + CONVERT.format(name=path.name)
