"""The workdir: which recipe it belongs to, and what it ran with."""

import importlib.metadata
import json
import platform
import tempfile
from pathlib import Path

from mmjax.config import Config, differences, resolve, to_dict
from mmjax.files import write_json
from mmjax.types import UserError

# What may change between two starts of one training: how long, how often, what is looked at.
_FREE = (
    "name",
    "data.root",
    "mesh.",
    "evaluate.",
    "data.evaluation_examples",
    "train.steps",
    "train.epochs",
    "train.log_every",
    "train.evaluate_every",
    "train.checkpoint_every",
    "train.keep",
    "train.max_bad_steps",
    "train.wandb_project",
)
_PACKAGES = ("mmjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "sentencepiece")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def open_workdir(workdir: Path, config: Config) -> None:
    """Makes the workdir where it is missing, refuses that of another recipe, and writes config.json.

    Raises:
        UserError: where the folder cannot be written, or holds a training whose recipe differs in more than its length
            and what is logged, evaluated and kept.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise UserError(f"--workdir {workdir}: cannot be written ({error.strerror}); name another folder") from error
    new = to_dict(config)
    # Before the tokenizer there is nothing that depends on the recipe, and a mistake in it can still be mended.
    if (workdir / "config.json").exists() and (workdir / "tokenizer.model").exists():
        old = to_dict(read_recipe(workdir))
        changed = [(n, a, b) for n, a, b in differences(old, new) if not n.startswith(_FREE)]
        if changed:
            listed = ", ".join(f"{name} was {was!r} and now is {now!r}" for name, was, now in changed[:4])
            more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
            raise UserError(f"--workdir {workdir}: holds another recipe: {listed}{more}; name another --workdir")
    write_json(workdir / "config.json", {"recipe": new, "versions": versions()})


def read_recipe(folder: Path) -> Config:
    """The recipe of a workdir or a model folder.

    Raises:
        UserError: where there is none, or it is of a version of mmjax with other fields.
    """
    path = folder / "config.json"
    try:
        return resolve(json.loads(path.read_text(encoding="utf-8"))["recipe"])
    except OSError:
        raise UserError(
            f"{folder}: no config.json there; name a workdir of mmjax train or a folder of mmjax export"
        ) from None
    except (json.JSONDecodeError, KeyError, TypeError):
        raise UserError(f"{path}: is no config.json of mmjax, or only half of one") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
