"""Checkpoints of the state by Orbax: asynchronous, committed by a marker file, the newest and the best kept."""

import dataclasses
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
from mmjax.types import Params, UserError, leaf_name


class Checkpoints:
    """The checkpoints of a workdir.

    Attributes:
        path: WORKDIR/checkpoints.
    """

    def __init__(self, workdir: Path, keep: int = 3, best: str = "", read_only: bool = False):
        """`best` names the figure by which one checkpoint more is kept; "-" before it: smaller is better."""
        self.path = workdir.resolve() / "checkpoints"
        self.best, self.sign = best.removeprefix("-"), -1.0 if best.startswith("-") else 1.0
        policies: list[Any] = [preservation_policy.LatestN(keep)]
        if self.best:
            policies.append(
                preservation_policy.BestN(get_metric_fn=self._goodness, n=1, keep_checkpoints_without_metrics=False)
            )
        handlers = {"state": ocp.StandardCheckpointHandler(), "metrics": ocp.JsonCheckpointHandler()}
        with _quiet():
            options = ocp.CheckpointManagerOptions(
                best_fn=self._goodness if self.best else None,  # without it Orbax forgets figures with the process
                best_mode="max",
                preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
                atomicity_options=AtomicityOptions(mode=AtomicityMode.COMMIT_FILE),
                create=not read_only,
                read_only=read_only,
            )
            self.manager = ocp.CheckpointManager(self.path, options=options, item_handlers=handlers)

    def steps(self) -> list[int]:
        """Committed steps, oldest first."""
        return sorted(self.manager.all_steps())

    def best_step(self) -> int | None:
        """The step whose evaluation was the best, the newest of several; None where none was evaluated."""
        found = [(self._goodness(figures), step) for step in self.steps() if (figures := self.manager.metrics(step))]
        return max(found)[1] if found else None

    def improves(self, figures: Mapping[str, float]) -> bool:
        """Whether an evaluation is better than that of every checkpoint there is."""
        if not math.isfinite(figures.get(self.best, math.nan)):
            return False
        best = self.best_step()
        return best is None or self._goodness(figures) > self._goodness(self.manager.metrics(best) or {})

    def _goodness(self, figures: Mapping[str, float]) -> float:
        return self.sign * figures.get(self.best, -self.sign * math.inf)  # it may have been another figure before

    def save(self, state: State, figures: Mapping[str, float]) -> None:
        """Starts to save the state; the copy to the disk goes on behind the next steps."""
        step = int(state.step)
        if step in self.manager.all_steps():
            return
        figures = {name: value for name, value in figures.items() if math.isfinite(value)}
        metrics = figures if self.best in figures else None
        with _one_line(self.path):
            self.manager.save(
                step, args=ocp.args.Composite(state=ocp.args.StandardSave(_fields(state))), metrics=metrics
            )

    def restore(self, shapes: State, step: int | str | None = None) -> State:
        """The state of a step (default: the newest), on the shardings that the shapes carry.

        Raises:
            UserError: where there is no such step, or the checkpoint is of another model.
        """
        step = self._known(step)
        try:
            self._check_shapes(step, shapes)  # first: a restoring that fails on the way leaves half-done reads behind
            restored = self.manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(_fields(shapes)))
            )
        except (ValueError, KeyError, OSError) as error:
            raise UserError(f"{self.path}/{step}: cannot be restored: {_first_line(error)}") from error
        return State(**restored["state"])

    def restore_params(self, step: int | str | None = None) -> tuple[int, Params]:
        """The step, and its averaged parameters (where there are none, the parameters), as NumPy arrays.

        Args:
            step: a number, "best", or None for the newest.
        """
        step = self._known(step)
        try:
            path = self.path / str(step) / "state"
            with _quiet(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
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

    def _known(self, step: int | str | None) -> int:
        steps = self.steps()
        if not steps:
            raise UserError(f"{self.path}: no checkpoint there yet; run mmjax train with this --workdir first")
        if step == "best":
            found = self.best_step()
            if found is None:
                raise UserError(f"{self.path}: none of the checkpoints was evaluated; give --step a number")
            return found
        if step is None:
            return steps[-1]
        if step not in steps:
            raise UserError(f"{self.path}: no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
        return int(step)


def step_argument(text: str) -> int | str:
    """A step on the command line: a number, or "best"."""
    return text if text == "best" else int(text)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax from warning of the options that are chosen here."""
    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turns a failed write, a full disk above all, into one line. What was committed before stays whole."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        reason = _first_line(error)
        advice = "free some space" if "space" in reason.lower() else "mend that"
        raise UserError(
            f"{path}: the checkpoint could not be written ({reason}); {advice} and start again, "
            "training goes on from the last whole checkpoint"
        ) from error


def _fields(state: State) -> dict[str, Any]:
    """A state by the names of its fields; the adversary only where there is one."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value for name, value in fields.items() if name != "adversary" or value is not None}


def _shapes_by_name(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {leaf_name(path): tuple(leaf.shape) for path, leaf in leaves}


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:1000]
