"""Checkpoints of the state by Orbax: asynchronous, committed by a marker file, the newest and the best kept."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy
from orbax.checkpoint.options import AtomicityMode, AtomicityOptions

from mmjax.train.state import State
from mmjax.types import Params, UserError


class Checkpoints:
    """The checkpoints of a workdir.

    Attributes:
        path: WORKDIR/checkpoints.
    """

    def __init__(self, workdir: Path, keep: int = 3, best: str = "", read_only: bool = False):
        """`best` names the figure by which one checkpoint more is kept; "-" before it: smaller is better."""
        self.path = workdir.resolve() / "checkpoints"
        name = best.removeprefix("-")
        policies: list[Any] = [preservation_policy.LatestN(keep)]
        if name:
            policies.append(
                preservation_policy.BestN(
                    get_metric_fn=lambda figures: figures[name],
                    reverse=best.startswith("-"),
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self.best = name
        for noisy in (
            "absl",
            "asyncio",
        ):  # what fails is raised as well, and told in one line; warnings are of our options
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
            atomicity_options=AtomicityOptions(mode=AtomicityMode.COMMIT_FILE),
            create=not read_only,
            read_only=read_only,
        )
        handlers = {"state": ocp.StandardCheckpointHandler(), "metrics": ocp.JsonCheckpointHandler()}
        self.manager = ocp.CheckpointManager(self.path, options=options, item_handlers=handlers)

    def steps(self) -> list[int]:
        """Committed steps, oldest first."""
        return sorted(self.manager.all_steps())

    def save(self, state: State, figures: Mapping[str, float]) -> None:
        """Starts to save the state; the copy to the disk goes on behind the next steps."""
        step = int(state.step)
        if step in self.manager.all_steps():
            return
        figures = {name: value for name, value in figures.items() if math.isfinite(value)}
        metrics = figures if self.best in figures else None
        with _one_line(self.path):
            self.manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state)), metrics=metrics)

    def restore(self, shapes: State, step: int | None = None) -> State:
        """The state of a step (default: the newest), on the shardings that the shapes carry.

        Raises:
            UserError: where there is no such step, or the checkpoint is of another model.
        """
        step = self._known(step)
        try:
            self._check_shapes(step, shapes)  # first: a restoring that fails on the way leaves half-done reads behind
            restored = self.manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(shapes)))
        except (ValueError, KeyError, OSError) as error:
            raise UserError(f"{self.path}/{step}: cannot be restored: {_first_line(error)}") from error
        return restored["state"]

    def restore_params(self, step: int | None = None) -> tuple[int, Params]:
        """The step, and its averaged parameters (where there are none, the parameters), as NumPy arrays."""
        step = self._known(step)
        try:
            path = self.path / str(step) / "state"
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
                found = reader.metadata(path).item_metadata.tree
                wanted = "params" if found.get("ema") is None else "ema"
                shapes = {wanted: jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), found[wanted])}
                as_numpy = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
                restored = reader.restore(path, ocp.args.PyTreeRestore(shapes, as_numpy, partial_restore=True))
        except (ValueError, KeyError, OSError, TypeError) as error:
            raise UserError(f"{self.path}/{step}: cannot be restored: {_first_line(error)}") from error
        return step, restored[wanted]

    def _check_shapes(self, step: int, shapes: State) -> None:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            found = _shapes_by_name(reader.metadata(self.path / str(step) / "state").item_metadata.tree)
        wanted = _shapes_by_name(shapes)
        for name in sorted(set(found) | set(wanted)):
            if found.get(name) != wanted.get(name):
                has, needs = (shape.get(name, "absent") for shape in (found, wanted))
                raise ValueError(f"{name} is {has}, and {needs} in the recipe's model")

    def wait(self) -> None:
        """Until all is on the disk."""
        with _one_line(self.path):
            self.manager.wait_until_finished()

    def close(self) -> None:
        with _one_line(self.path):
            self.manager.close()

    def _known(self, step: int | None) -> int:
        steps = self.steps()
        if not steps:
            raise UserError(f"{self.path}: no checkpoint there; run mmjax train with this --workdir first")
        if step is not None and step not in steps:
            raise UserError(f"{self.path}: no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
        return steps[-1] if step is None else step


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turns a failed write, a full disk above all, into one line. What was committed before stays whole."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(
            f"{path}: the checkpoint could not be written ({_first_line(error)}); free some space and start again, "
            "training goes on from the last whole checkpoint"
        ) from error


def _shapes_by_name(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:1000]
