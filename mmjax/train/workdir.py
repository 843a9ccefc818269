"""The workdir: which config it belongs to, and what it ran with."""

import importlib.metadata
import json
import platform
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mmjax.config import Config, differences, resolve, to_dict
from mmjax.files import write_json
from mmjax.lock import locked
from mmjax.parallel import processes
from mmjax.train import batch_size_history
from mmjax.types import UserError

# What may change between two starts of one training: how long, how much a step, how often, what is looked at,
# how it is computed.
MUTABLE_FIELDS = (
    "name",
    "data.root",
    "mesh.",
    "evaluate.",
    "model.attention",
    "model.convolution",
    "model.unroll",
    "model.remat",
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
    "sampling.",
    "tokens.tokenizer",
    "tokens.reference",
    "tokens.text_encoder",
    "tokens.cache",
)
# What may be another for evaluating than it was for training.
EVAL_OVERRIDES = (
    "data.root",
    "data.evaluation",
    "mesh.",
    "evaluate.",
    "model.attention",
    "model.convolution",
    "model.unroll",
    "model.remat",
    "perceptual.",
    "sampling.",
    "tokens.cache",
)
LOCK = "training.lock"
TOKENIZER_FIELDS = ("data.", "text.", "text_encoder", "seed")  # what the text tokenizer depends on
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


def check_workdir(workdir: Path, config: Config) -> None:
    """Makes the workdir where it is missing, and refuses that of another config.

    Raises:
        UserError: where the folder cannot be written, or see check_config.
    """
    _check_writable(workdir)
    check_config(workdir, config)


def _check_writable(workdir: Path) -> None:
    if re.match(r"[a-z0-9]+:/", str(workdir)):  # of which Path has made a folder's name
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
    """Refuses the workdir of another config; makes none.

    Before the first checkpoint nothing was learned yet: then a workdir takes any config, and a tokenizer that was made
    for other data is made anew.

    Raises:
        UserError: where the folder holds a training whose config differs in more than its length and what is logged,
            evaluated and kept.
    """
    if not (workdir / "config.json").exists():
        return
    before = read_config(workdir)
    old, new = to_dict(before), to_dict(config)
    changed = [(n, a, b) for n, a, b in differences(old, new) if not unqualified(n).startswith(MUTABLE_FIELDS)]
    if not _has_begun(workdir, before):
        if any(name.startswith(TOKENIZER_FIELDS) for name, _, _ in changed):
            (workdir / "tokenizer.model").unlink(missing_ok=True)
        return
    if changed:
        listed = ", ".join(f"{name} was {was!r} and now is {now!r}" for name, was, now in changed[:4])
        more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise UserError(f"--workdir {workdir}: holds another config: {listed}{more}; name another --workdir")


def _has_begun(workdir: Path, config: Config) -> bool:
    """Whether there is a checkpoint; one in a bucket is not looked for, and taken to be there."""
    at = config.train.checkpoints
    return "://" in at or any((Path(at) if at else workdir / "checkpoints").glob("[0-9]*"))


def unqualified(name: str) -> str:
    """A field's name as the config that it belongs to has it, which may lie inside of another; of a part of a mixture
    the name in any data."""
    own = re.sub(r"^((tokenizer|reference|pretraining)\.)+", "", name)
    return re.sub(r"^data\.mixture\.[^.]+\.", "data.", own)


@contextmanager
def workdir_lock(workdir: Path) -> Iterator[None]:
    """Keeps other trainings out of a workdir, which is made where it is missing, while the block runs.

    Raises:
        UserError: where another process trains there, or the folder cannot be written.
    """
    with ExitStack() as stack:

        def lock() -> None:
            if not workdir.exists():
                stack.callback(_remove_empty, workdir)  # a mistake that is found only then leaves nothing behind
            _check_writable(workdir)
            stack.enter_context(locked(workdir / LOCK, f"--workdir {workdir}: is in use"))

        processes.run_on_primary(lock)
        yield


def _remove_empty(workdir: Path) -> None:
    with suppress(OSError):
        workdir.rmdir()


def open_workdir(workdir: Path, config: Config, batches: batch_size_history.BatchSizeHistory | None = None) -> None:
    """Checks the workdir and writes config.json.

    Args:
        batches: the training's stretches; None: those that the workdir has.
    """
    check_workdir(workdir, config)
    batches = batches or read_batch_size_history(workdir) or batch_size_history.extend([], 0, config.train.batch)
    write_json(workdir / "config.json", {"config": to_dict(config), "batches": batches, "versions": versions()})


def read_batch_size_history(workdir: Path) -> list[list[int]]:
    """With which batches a training went, see mmjax.train.batch_size_history; none where there is no config.json.

    Where config.json tells of none, the batch was always that of its config.

    Raises:
        UserError: where it is no config.json of mmjax.
    """
    path = workdir / "config.json"
    if not path.exists():
        return []
    config_dict = read_config(workdir)
    found: list[list[int]] = json.loads(path.read_text(encoding="utf-8")).get("batches", [[0, config_dict.train.batch]])
    if not batch_size_history.valid(found):
        raise UserError(
            f"{path}: batches: must list [first step, batch], from step 0 on and in the order of steps, not {found!r}"
        )
    return found


def check_overrides(overrides: Mapping[str, str]) -> None:
    """Raises UserError for a field that may not be another for evaluating than it was for training."""
    for name in overrides:
        if not unqualified(name).startswith(EVAL_OVERRIDES):
            raise UserError(f"--config.{name}: is what the model was trained with; it may not change afterwards")


def read_config(folder: Path, overrides: Mapping[str, str] | None = None) -> Config:
    """The config of a workdir or a model folder; overrides as on the command line.

    Raises:
        UserError: where there is none, or it is of a version of mmjax with other fields.
    """
    path = folder / "config.json"
    try:
        config_dict = json.loads(path.read_text(encoding="utf-8"))["config"]
    except OSError:
        raise UserError(
            f"{folder}: no config.json there; name a workdir of mmjax train or a folder of mmjax export"
        ) from None
    except (json.JSONDecodeError, KeyError, TypeError):
        raise UserError(f"{path}: is no config.json of mmjax, or only half of one") from None
    try:
        return resolve(config_dict, overrides)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
