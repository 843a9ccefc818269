"""The workdir: its config, lock and versions."""

import importlib.metadata
import json
import platform
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from mmjax import registry
from mmjax.config import Config, differences, resolve, to_dict
from mmjax.files import read_file, write_json
from mmjax.lock import locked
from mmjax.parallel import processes
from mmjax.train import batch_size_history
from mmjax.types import UserError

# Fields that change nothing of what is trained, and may be overridden when it is resumed and when it is evaluated.
_LOCAL = ("data.root", "mesh.", "evaluate.", "compute.", "sampling.", "text_decoding.", "tokens.cache")
EVAL_OVERRIDES = (*_LOCAL, "data.evaluation", "perceptual.")
# Fields that may change when a run is resumed: also its length, batch size and intervals.
MUTABLE_FIELDS = (
    *_LOCAL,
    "name",
    "path",
    "data.evaluation_examples",
    "data.max_corrupt_fraction",
    "train.batch",
    "train.steps",
    "train.epochs",
    "train.log_every",
    "train.evaluate_every",
    "train.checkpoint_every",
    "train.checkpoints",
    "train.max_to_keep",
    "train.best_metric",
    "train.max_nonfinite_steps",
    "train.wandb_project",
)
LOCK = "training.lock"
MAX_CONFIG = 64 << 20  # bytes of a config.json
TOKENIZER_FIELDS = ("data.", "text.", "components.text_encoder.", "seed")  # what the text tokenizer depends on
_PACKAGES = ("mmjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "sentencepiece")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect results."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _check_writable(workdir: Path) -> None:
    if re.match(r"[a-z0-9]+:/", str(workdir)):  # Path has collapsed the slashes
        raise UserError(
            f"--workdir {workdir}: must be a folder; mount the bucket, or keep the checkpoints alone there with "
            "--config.train.checkpoints=gs://BUCKET/FOLDER"
        )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=workdir):
            pass
    except OSError as error:
        raise UserError(f"--workdir {workdir}: cannot be written ({error.strerror}); name another folder") from error


def check_config(workdir: Path, config: Config) -> None:
    """Checks that the workdir, if there is one, belongs to this config.

    A workdir without a checkpoint takes any config; a text tokenizer of other data is then deleted and made again.

    Raises:
        UserError: if it holds a run whose config differs in more than MUTABLE_FIELDS.
    """
    if not (workdir / "config.json").exists():
        return
    before = read_config(workdir, plugins=registry.packages(to_dict(config)))
    changed = changed_fields(to_dict(before), to_dict(config))
    at = before.train.checkpoints
    # In a bucket, a checkpoint is assumed.
    if "://" not in at and not any((Path(at) if at else workdir / "checkpoints").glob("[0-9]*")):
        if any(name.startswith(TOKENIZER_FIELDS) for name, _, _ in changed):
            for name in ("tokenizer.model", "tokenizer.json"):
                (workdir / name).unlink(missing_ok=True)
        return
    if changed:
        raise UserError(f"--workdir {workdir}: holds another config: {listed(changed)}; name another --workdir")


def changed_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Differences of two configs in more than MUTABLE_FIELDS: names, values before and now."""
    return [(n, a, b) for n, a, b in differences(old, new) if not unqualified(n).startswith(MUTABLE_FIELDS)]


def listed(changed: list[tuple[str, Any, Any]]) -> str:
    text = ", ".join(f"{name} was {was!r} and now is {now!r}" for name, was, now in changed[:4])
    return text + (f" and {len(changed) - 4} more" if len(changed) > 4 else "")


def unqualified(name: str) -> str:
    """A field's name in its own config, which may be nested in another; of a mixture component, its name in `data`."""
    own = re.sub(r"^(pretraining\.|components\.\w+\.(config\.)?)+", "", name)
    return re.sub(r"^data\.mixture\.[^.]+\.", "data.", own)


@contextmanager
def workdir_lock(workdir: Path) -> Iterator[None]:
    """Locks the workdir against other training processes while the block runs; creates it if it is missing.

    Raises:
        UserError: if another process trains there, or the folder cannot be written.
    """
    with ExitStack() as stack:

        def lock() -> None:
            if not workdir.exists():
                stack.callback(_remove_empty, workdir)  # a later error leaves no empty folder
            _check_writable(workdir)
            stack.enter_context(locked(workdir / LOCK, f"--workdir {workdir}: is in use"))

        processes.run_on_primary(lock)
        yield


def _remove_empty(workdir: Path) -> None:
    with suppress(OSError):
        workdir.rmdir()


def open_workdir(
    workdir: Path,
    config: Config,
    batches: batch_size_history.BatchSizeHistory | None = None,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Checks the workdir, see check_config, and writes config.json.

    Args:
        batches: the batch size history; None: that of the workdir.
        data: the number of training examples and a digest of them, see check_data; None: those of the workdir.
    """
    check_config(workdir, config)
    batches = batches or read_batch_size_history(workdir) or batch_size_history.extend([], 0, config.train.batch)
    if data is None and (workdir / "config.json").exists():
        data = read_json(workdir).get("data")
    written = {"config": to_dict(config), "batches": batches, "data": data, "versions": versions()}
    write_json(workdir / "config.json", written)


def check_data(workdir: Path, data: Mapping[str, Any]) -> None:
    """Raises UserError where a run resumes on other training examples than it began with, or without its config.json.

    The order of the examples follows from their number, so that with others some would be repeated and some left out.
    """
    if not (workdir / "config.json").exists():
        raise UserError(
            f"--workdir {workdir}: has checkpoints, but its config.json is gone; restore it, or name another --workdir"
        )
    before = read_json(workdir).get("data")
    if isinstance(before, dict) and before != data:
        was, now = before.get("examples"), data["examples"]
        changed = f"{was} examples, and now there are {now}" if was != now else f"{was} others (keys or captions)"
        raise UserError(
            f"--workdir {workdir}: data: the run was trained on {changed}; restore the data set, or continue with "
            "another --workdir and train.init_from"
        )


def read_batch_size_history(workdir: Path) -> list[list[int]]:
    """The batch size history of config.json; empty without a config.json.

    Raises:
        UserError: if it is not a config.json of mmjax.
    """
    path = workdir / "config.json"
    if not path.exists():
        return []
    found: list[list[int]] = read_json(workdir).get("batches", [])
    if not batch_size_history.valid(found):
        raise UserError(f"{path}: batches: must list [first step, batch], from step 0 on, in order, not {found!r}")
    return found


def check_overrides(overrides: Mapping[str, str]) -> None:
    """Raises UserError for a field that may not be overridden for evaluation."""
    for name in overrides:
        if not unqualified(name).startswith(EVAL_OVERRIDES):
            raise UserError(f"--config.{name}: cannot be overridden after training")


def read_config(folder: Path, overrides: Mapping[str, str] | None = None, plugins: Iterable[str] = ()) -> Config:
    """The config of a workdir or a model folder; overrides as on the command line.

    Args:
        plugins: packages whose code it may name; see mmjax.registry.check_plugins.

    Raises:
        UserError: if there is none, or it has other fields than this version of mmjax.
    """
    config_dict = read_json(folder)["config"]
    try:
        return resolve(config_dict, overrides, plugins=plugins)
    except UserError as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from None


def read_json(folder: Path) -> dict[str, Any]:
    """The content of config.json, not resolved: "config" and what else was written.

    Raises:
        UserError: if there is none, or it is not one of mmjax.
    """
    path = folder / "config.json"
    try:
        found: dict[str, Any] = json.loads(read_file(path, MAX_CONFIG).decode())
        if not isinstance(found["config"], dict):
            raise TypeError
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder}: no config.json there; name a workdir of mmjax train or a folder of mmjax export"
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path}: not a config.json of mmjax, or a truncated one") from None
    return found
