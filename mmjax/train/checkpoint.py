"""Checkpoints of the train state with Orbax: asynchronous, committed by a marker file, the newest and the best kept."""

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy
from orbax.checkpoint.options import AtomicityMode, AtomicityOptions

from mmjax.files import finite
from mmjax.parallel import processes
from mmjax.train import fingerprint, identity, storage
from mmjax.train.state import State
from mmjax.types import Params, TransientError, UserError, leaf_name

FINGERPRINTS = "fingerprints"  # saved beside the fields of the state: uint32, one a leaf
DAMAGED = "checkpoints-damaged"  # folder beside the checkpoints

logger = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of a workdir.

    Attributes:
        path: WORKDIR/checkpoints, or train.checkpoints.
        run: what they belong to, saved with each and compared where one is restored; see mmjax.train.identity.
    """

    def __init__(self, workdir: Path, keep: int = 3, best: str = "", read_only: bool = False, at: str = ""):
        """Opens or creates the checkpoints.

        Args:
            keep: number of newest checkpoints to keep.
            best: metric by which the best one is kept too; with "-" in front, smaller is better.
            at: a folder or bucket instead of WORKDIR/checkpoints.

        Raises:
            UserError: if that cannot be opened.
        """
        self.path, self.run = folder(workdir, at), dict[str, Any]()
        self.best, self.sign = best.removeprefix("-"), -1.0 if best.startswith("-") else 1.0
        policies: list[Any] = [preservation_policy.LatestN(keep)]
        if self.best:
            ranks = preservation_policy.BestN(get_metric_fn=self._score, n=1, keep_checkpoints_without_metrics=False)
            policies.append(ranks)
        uncompressed = ocp.PyTreeCheckpointHandler(use_compression=False)  # compression would slow down the steps
        handlers = {
            "state": uncompressed,
            "metrics": ocp.JsonCheckpointHandler(),
            identity.ITEM: ocp.JsonCheckpointHandler(),
        }
        with _quiet(), storage.open_errors(self.path):
            storage.check_readable(self.path)
            options = ocp.CheckpointManagerOptions(
                best_fn=self._score if self.best else None,  # without it Orbax forgets metrics with the process
                best_mode="max",
                preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
                atomicity_options=AtomicityOptions(mode=AtomicityMode.COMMIT_FILE),
                create=not read_only,
                read_only=read_only,
            )
            self.manager = _Manager(self.path, options=options, item_handlers=handlers)
            self.reader = ocp.PyTreeCheckpointHandler()

    def steps(self) -> list[int]:
        """Committed steps, oldest first."""
        return sorted(self.manager.all_steps())

    def best_step(self) -> int | None:
        """The newest step with the best evaluation; None if none was evaluated."""
        found = [(self._score(metrics), step) for step in self.steps() if (metrics := self.manager.metrics(step))]
        return max(found)[1] if found else None

    def improves(self, metrics: Mapping[str, float]) -> bool:
        """Whether an evaluation is better than that of every checkpoint."""
        if not math.isfinite(metrics.get(self.best, math.nan)):
            return False
        best = self.best_step()
        return best is None or self._score(metrics) > self._score(self.manager.metrics(best) or {})

    def _score(self, metrics: Mapping[str, float]) -> float:
        worst = -self.sign * math.inf  # where an earlier config had another metric
        return self.sign * metrics.get(self.best, worst)

    def save(self, state: State, metrics: Mapping[str, float]) -> None:
        """Starts an asynchronous save of the state, with a fingerprint of each array.

        Raises:
            UserError: if the state is not finite, and so is not saved, or cannot be written.
        """
        step = int(state.step)
        if step in self.manager.all_steps():
            return
        fields = _fields(state)
        fingerprints, finite = fingerprint.summarize(fields, state.step.sharding)
        bad = [name for name, good in zip(fingerprint.names(fields), jax.device_get(finite), strict=True) if not good]
        if bad:
            raise UserError(
                f"{self.path}: step {step} is not saved: {bad[0]} is not finite; try a smaller "
                "optimizer.learning_rate, or optimizer.grad_clip_norm=1.0, in another --workdir"
            )
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        ranked = metrics if self.best in metrics else None
        run = {identity.ITEM: ocp.args.JsonSave(self.run)} if self.run else {}
        args = ocp.args.Composite(state=ocp.args.PyTreeSave(fields | {FINGERPRINTS: fingerprints}), **run)
        with storage.write_errors(self.path):
            self.manager.save(step, args=args, metrics=ranked)

    def restore(self, shapes: State, step: int | str | None = None) -> State:
        """Restores the state of a step (default: the newest), with the shardings of `shapes`.

        Every array is verified by its fingerprint. If the newest step is damaged, it is quarantined with a warning, and
        the step before it is restored.

        Raises:
            UserError: if there is no such step, it is of another run or model, or none is undamaged.
        """
        read, check = (functools.partial(action, shapes=shapes) for action in (self._read, self._verify))
        return self._first_intact(step, read, check, quarantine=True)[1]

    def _first_intact(
        self, step: int | str | None, read: Callable[[int], Any], check: Callable[[Any], Any], quarantine: bool = False
    ) -> tuple[int, Any]:
        """The given step, or the newest intact one, and the result of `check` for it.

        Args:
            read: reads a step, in each process on its own.
            check: raises an error if what was read is damaged; may be a computation of all processes.
        """
        candidates = self._candidates(step)
        for candidate in candidates:
            processes.run_on_primary(functools.partial(identity.check, self.path / str(candidate), self.run))
        problems: dict[int, str] = {}
        for candidate in candidates:
            with storage.warn_if_slow(self.path / str(candidate)):
                found, problem = self._tried(candidate, read, candidate)
                if not problem:
                    found, problem = self._tried(candidate, check, found)
            if not problem:
                for damaged, why in problems.items():
                    aside = self._quarantine(damaged) if quarantine else ""
                    logger.warning(
                        "%s/%d: is damaged (%s)%s; resuming from step %d", self.path, damaged, why, aside, candidate
                    )
                return candidate, found
            problems[candidate] = problem
        first = candidates[0]
        others = f", nor can any step before it ({len(candidates) - 1})" if len(candidates) > 1 else ""
        hint = "" if step is not None else f"; to start over, take another --workdir or remove {self.path}"
        raise UserError(f"{self.path}/{first}: cannot be restored: {problems[first]}{others}{hint}")

    def _tried(self, step: int, action: Callable[[Any], Any], argument: Any) -> tuple[Any, str]:
        """The result of an action, and the first error in any process: only one may have read the damaged part.

        All processes wait for each other.

        Raises:
            UserError: without permission to read the checkpoint, which does not mean that it is damaged.
            TransientError: if a disk or bucket did not respond.
        """
        value, problem, failure = None, "", None
        try:
            value = action(argument)
        except Exception as error:  # Orbax raises many types for damaged files
            problem, failure = storage.first_line(error), storage.failure(error)
        errors = [each for each in processes.all_gather_objects([problem, failure]) if each[0]]
        for why, status in errors:
            if status is not None:
                kind = TransientError if status == TransientError.status else UserError
                raise kind(f"{self.path}/{step}: could not be read: {why}")
        return value, errors[0][0] if errors else ""

    def _quarantine(self, step: int) -> str:
        """Moves a damaged step to checkpoints-damaged, to make way for a new one of that number."""

        def move() -> str:
            damaged = self.path.with_name(DAMAGED)
            damaged.mkdir(exist_ok=True)
            numbered = (damaged / f"{step}.{number}" for number in range(1, 1000))
            aside = next(path for path in (damaged / str(step), *numbered) if not path.exists())
            (self.path / str(step)).rename(aside)
            return str(aside)

        aside = processes.run_on_primary(move)
        self.manager.reload()
        return f" and was moved to {aside}"

    def _read(self, step: int, shapes: State) -> dict[str, Any]:
        """The fields of a step's state, and their fingerprints if it has any, with the shardings of the shapes."""
        saved = self._check_shapes(step, shapes)  # first: a failed restore leaves reads pending
        fields = _fields(shapes)
        if FINGERPRINTS in saved:
            whole = shapes.step.sharding
            fields |= {FINGERPRINTS: jax.ShapeDtypeStruct(saved[FINGERPRINTS], np.uint32, sharding=whole)}
        wanted = ocp.args.PyTreeRestore(fields, ocp.checkpoint_utils.construct_restore_args(fields))
        # Not by the manager: there, processes that succeeded would wait for one that failed.
        return self.reader.restore(self._state_of(step), args=wanted)

    def _verify(self, fields: dict[str, Any], shapes: State) -> State:
        """The state, after comparing its fingerprints with the saved ones."""
        if FINGERPRINTS in fields:
            saved = jax.device_get(fields.pop(FINGERPRINTS)).tolist()
            found = jax.device_get(fingerprint.summarize(fields, shapes.step.sharding)[0]).tolist()
            _check(dict(zip(fingerprint.names(fields), zip(saved, found, strict=True), strict=True)))
        return State(**fields)

    def _state_of(self, step: int) -> epath.Path:
        return self.path / str(step) / "state"

    def restore_params(self, step: int | str | None = None) -> tuple[int, Params]:
        """The step and its EMA parameters (without an EMA, its parameters), as NumPy arrays.

        Verified by their fingerprints. Unless a step is given, damaged ones are skipped with a warning.

        Args:
            step: a number, "best", or None for the newest.
        """
        return self._first_intact(step, self._read_params, _verify_params)

    def _read_params(self, step: int) -> dict[str, Any]:
        """The parameters of a step, and its fingerprints by name."""
        found = self._tree(step)
        wanted = "params" if found.get("ema") is None else "ema"
        parts = {name: found[name] for name in (wanted, FINGERPRINTS) if name in found}
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), parts)
        as_numpy = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), shapes)
        these = ocp.args.PyTreeRestore(shapes, as_numpy, partial_restore=True)
        restored = self.reader.restore(self._state_of(step), args=these)
        if FINGERPRINTS in found:
            names = fingerprint.names({**found} | {FINGERPRINTS: None})
            restored[FINGERPRINTS] = dict(zip(names, restored[FINGERPRINTS].tolist(), strict=True))
        return restored

    def _check_shapes(self, step: int, shapes: State) -> dict[str, tuple[int, ...]]:
        """The shapes of a step's arrays, by name. Raises ValueError if they are not those of the config's model."""
        found = _shapes_by_name(self._tree(step))
        wanted = _shapes_by_name(shapes)
        for name in sorted((set(found) | set(wanted)) - {FINGERPRINTS}):
            if found.get(name) != wanted.get(name):
                has, needs = (shape.get(name, "absent") for shape in (found, wanted))
                raise ValueError(f"{name} is {has}, and {needs} in the config's model")
        return found

    def _tree(self, step: int) -> Any:
        """The tree of array metadata of a step."""
        storage.check_regular(self._state_of(step))
        return self.reader.metadata(self._state_of(step)).tree

    def wait(self) -> None:
        """Waits until all saves are committed."""
        with storage.write_errors(self.path):
            self.manager.wait_until_finished()

    def close(self) -> None:
        with storage.write_errors(self.path):
            self.manager.close()
            self.reader.close()

    def _candidates(self, step: int | str | None) -> list[int]:
        """The committed step that is asked for; by default all, newest first."""
        steps = self.steps()
        if not steps:
            raise UserError(f"{self.path}: no checkpoint yet; run mmjax train with this --workdir first")
        wanted = self.best_step() if step == "best" else step
        if step == "best" and wanted is None:
            raise UserError(f"{self.path}: none of the checkpoints was evaluated; give --step a number")
        if wanted not in (None, *steps):
            raise UserError(f"{self.path}: no checkpoint of step {step}; there are {', '.join(map(str, steps))}")
        return steps[::-1] if wanted is None else [int(wanted)]


class _Manager(ocp.CheckpointManager):
    """Orbax's manager, which opens the other steps, and the state of this one, where its small files are damaged."""

    def metrics(self, step: int) -> dict[str, float] | None:
        def read() -> dict[str, float] | None:
            storage.check_regular(self.directory / str(step) / "metrics")
            found = super(_Manager, self).metrics(step)
            if not (found is None or (isinstance(found, dict) and all(map(finite, found.values())))):
                raise ValueError("not numbers by their names")
            return found

        metrics: dict[str, float] | None = storage.read_optional(self.directory / str(step) / "metrics", read)
        return metrics

    def _load_checkpoint_infos(self, skip_metadata_read: bool = False) -> list[Any]:
        infos = super()._load_checkpoint_infos(skip_metadata_read=True)  # it is read for its time, which is not used
        return [dataclasses.replace(info, metrics=self.metrics(info.step)) for info in infos]


def folder(workdir: Path, at: str = "") -> epath.Path:
    """The checkpoint folder: in the workdir, or at a folder or bucket."""
    return epath.Path(at) if "://" in at else epath.Path((Path(at) if at else workdir / "checkpoints").resolve())


def step_argument(text: str) -> int | str:
    """A step on the command line: a number, or "best"."""
    return text if text == "best" else int(text)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences Orbax's warnings about the options chosen here."""
    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _verify_params(read: dict[str, Any]) -> Params:
    """The parameters, after comparing their fingerprints with the saved ones."""
    saved = read.pop(FINGERPRINTS, None)
    if saved is not None:
        leaves = jax.tree_util.tree_leaves_with_path(read)
        _check({(name := leaf_name(where)): (saved[name], fingerprint.of_array(leaf)) for where, leaf in leaves})
    (params,) = read.values()
    return params


def _check(fingerprints: Mapping[str, tuple[int, int]]) -> None:
    """Raises ValueError for arrays whose saved and current fingerprints differ."""
    changed = sorted(name for name, (saved, current) in fingerprints.items() if saved != current)
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise ValueError(f"{changed[0]}{more}: its bits differ from those saved")


def _fields(state: State) -> dict[str, Any]:
    """The fields of a state by name, without optional ones that are None."""
    fields = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    optional = ("adversary", "grad_norm_ema")
    return {name: value for name, value in fields.items() if name not in optional or value is not None}


def _shapes_by_name(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {leaf_name(path): tuple(leaf.shape) for path, leaf in leaves}
