"""The model folder: config.json, model.safetensors, tokenizer.model and a model card; all that is needed to run it."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from mmjax import models
from mmjax.config import Config, to_dict
from mmjax.files import write_json
from mmjax.train.workdir import read_recipe, versions
from mmjax.types import Params, UserError

FILES = ("config.json", "model.safetensors", "tokenizer.model", "README.md")


def write_model_folder(
    folder: Path, config: Config, params: Params, tokenizer: bytes, step: int, figures: Mapping[str, float]
) -> None:
    """Writes a model folder whole or not at all; a model folder that is there already is replaced.

    Raises:
        UserError: where the folder exists and is something else, or cannot be written.
    """
    folder = folder.absolute()
    if folder.exists() and not _replaceable(folder):
        raise UserError(f"--out {folder}: exists and is no model folder; name another one")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    replaced = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    try:
        temporary.mkdir(parents=True)
        write_json(temporary / "config.json", {"recipe": to_dict(config), "step": step, "versions": versions()})
        save_file(
            jax.tree.map(np.ascontiguousarray, flatten(params)), temporary / "model.safetensors", {"format": "mmjax"}
        )
        (temporary / "model.safetensors").chmod(0o644)  # the library writes it for the owner alone
        (temporary / "tokenizer.model").write_bytes(tokenizer)
        (temporary / "README.md").write_text(_card(config, params, step, figures), encoding="utf-8")
        if folder.exists():
            folder.rename(replaced)
        temporary.rename(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise UserError(f"--out {folder}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replaceable(folder: Path) -> bool:
    """Whether the folder is empty or a model folder of ours; others' models use the same names for their files."""
    if not folder.is_dir():
        return False
    names = set(os.listdir(folder))
    if not names:
        return True
    try:
        return "model.safetensors" in names and names <= set(FILES) and bool(read_recipe(folder))
    except UserError:
        return False


def flatten(params: Params) -> dict[str, Any]:
    """Parameters by their names, `text/block_0/mlp_in/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def read_params(path: Path, shapes: Params) -> Params:
    """The parameters in a safetensors file, as a tree like `shapes`.

    Raises:
        UserError: where the file is missing or broken, or does not hold exactly these parameters.
    """
    try:
        found = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a model folder needs it, export the model again") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error}); export the model again") from error
    wanted = flatten(shapes)
    for name in sorted(set(found) | set(wanted)):
        if name not in found or name not in wanted:
            what = "has no" if name in wanted else "has an unexpected"
            raise UserError(f"{path}: {what} parameter {name}; is it of another recipe?")
        if found[name].shape != wanted[name].shape:
            raise UserError(f"{path}: {name} has shape {found[name].shape}, the recipe says {wanted[name].shape}")
    return jax.tree.unflatten(jax.tree.structure(shapes), [found[name] for name in wanted])


def _card(config: Config, params: Params, step: int, figures: Mapping[str, float]) -> str:
    inputs = models.inputs(config)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    rows: list[tuple[str, Any]] = [(name, f"{value:.4g}") for name, value in sorted(figures.items())]
    table = "".join(f"| {name} | {value} |\n" for name, value in rows) or "| none yet | |\n"
    return f"""# {config.name}

A direct generator of mmjax: text{" and a reference picture" if "reference" in inputs else ""} in, a picture of
{config.data.size} x {config.data.size} pixels out. {count:,} parameters, {step:,} steps on `{config.data.source}`.

```python
import mmjax
model = mmjax.load("{config.name}")  # this folder
pictures = model.generate(["..."])  # uint8 [1, {config.data.size}, {config.data.size}, 3]
```

| figure | held-out examples |
| --- | --- |
{table}
`config.json` holds the whole recipe and the versions it was trained with.
"""
