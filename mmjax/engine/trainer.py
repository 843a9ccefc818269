"""From the parts of a config to what trains them: the step, the state, and when it is evaluated and saved."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mmjax import losses, models
from mmjax.config import Config
from mmjax.engine.setup import Experiment
from mmjax.export.model_folder import flatten
from mmjax.losses import adversarial
from mmjax.models import discriminator
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.parallel import Placement, match_rules, processes
from mmjax.train.adversary import Adversary
from mmjax.train.batch_size_history import BatchSizeHistory, examples_seen, extend
from mmjax.train.optimizer import make_optimizer
from mmjax.train.state import State, make_state, state_shardings
from mmjax.train.step import make_step
from mmjax.types import Params, UserError


@dataclass(frozen=True)
class Training:
    """What training needs beside.

    Attributes:
        shapes: of the state, with its shardings.
        make_state: makes the state at step 0, sharded from the start.
        step: (state, placed batch) -> (state, metrics); it takes the state's memory over.
        lower: (shapes of a batch) -> the step, ready to be compiled.
    """

    shapes: State
    make_state: Callable[[], State]
    step: Callable[[State, Any], tuple[State, dict[str, jax.Array]]]
    lower: Callable[[Any], jax.stages.Lowered]


def build(experiment: Experiment, steps: int) -> Training:
    """What trains an experiment for so many steps."""
    config, placement = experiment.config, experiment.placement
    tx, adversary = make_optimizer(config.optimizer, steps), _adversary(config, experiment.compute)
    make = _maker(config, tx, adversary)
    shapes = jax.eval_shape(make)
    shardings = _state_shardings(config, shapes, placement, tx, adversary)
    step = jax.jit(
        make_step(
            experiment.apply,
            experiment.loss,
            tx,
            config.optimizer.grad_accum_steps,
            config.optimizer.ema_decay,
            adversary,
            config.train.skip_grad_spikes,
        ),
        in_shardings=(shardings, placement.batch, placement.replicated),
        out_shardings=(shardings, placement.replicated),
        donate_argnums=0,
        compiler_options=placement.compiler_options,
    )
    placed = _placed(shapes, shardings)
    return Training(
        shapes=placed,
        make_state=jax.jit(make, out_shardings=shardings),
        step=lambda state, batch: step(state, batch, experiment.frozen),
        lower=lambda batch: step.lower(placed, batch, experiment.frozen),
    )


def _maker(config: Config, tx: Any, adversary: Adversary | None) -> Callable[[], State]:
    """What makes the state at step 0."""
    return make_state(
        lambda key: models.init(config, key),
        tx,
        config.seed,
        config.optimizer.ema_decay > 0,
        adversary,
        config.train.skip_grad_spikes > 0,
    )


def state_shapes(config: Config, placement: Placement, steps: int) -> State:
    """The shapes of a state, with its shardings."""
    tx, adversary = make_optimizer(config.optimizer, steps), _adversary(config, DEFAULT)
    shapes = jax.eval_shape(_maker(config, tx, adversary))
    return _placed(shapes, _state_shardings(config, shapes, placement, tx, adversary))


def _placed(shapes: State, shardings: State) -> State:
    def placed(leaf: jax.ShapeDtypeStruct, where: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    found: State = jax.tree.map(placed, shapes, shardings)
    return found


def _state_shardings(
    config: Config, shapes: State, placement: Placement, tx: optax.GradientTransformation, adversary: Adversary | None
) -> State:
    params, theirs = match_rules(shapes.params, models.sharding_rules(config), placement.mesh), None
    if adversary:
        rules = discriminator.sharding_rules(config)
        theirs = (match_rules(shapes.adversary.params, rules, placement.mesh), adversary.tx)
    return state_shardings(shapes, params, placement.replicated, tx, theirs)


def _adversary(config: Config, compute: Compute) -> Adversary | None:
    """The discriminator, where the losses need one."""
    terms = losses.adversarial_terms(config)
    if not terms:
        return None
    theirs, module = config.discriminator, discriminator.build(config, compute)

    def apply(params: Params, image: jax.Array) -> Any:
        return module.apply({"params": params}, image)

    return Adversary(
        init=lambda key: discriminator.init(config, key),
        tx=optax.adam(theirs.learning_rate, theirs.b1, theirs.b2),
        loss=adversarial.Adversarial(apply, theirs.loss, theirs.regularizer, theirs.regularizer_weight),
        terms=terms,
        train_from=theirs.train_from,
        start=theirs.start,
    )


def first_state(given: Params | None, experiment: Experiment, training: Training) -> State:
    """The state at step 0, with fresh parameters where none are given.

    Args:
        given: parameters to start from, of another model; those are taken that have a name of this one's, which
            train.init_rename may change. What is taken and what is fresh is told.

    Raises:
        UserError: where a parameter has another shape, or none has a name of this model's.
    """
    state = training.make_state()
    if given is None:
        return state
    fresh, config = flatten(state.params), experiment.config
    theirs, taken = flatten(given), {}
    for name, leaf in fresh.items():
        source = _renamed(name, config.train.init_rename)
        if source not in theirs:
            continue
        if theirs[source].shape != leaf.shape:
            raise UserError(
                f"train.init_from: {source} of {config.train.init_from or 'pretraining'} has shape "
                f"{theirs[source].shape}, and {name} has {leaf.shape}; leave it fresh with "
                f"--config.train.init_rename.{name.partition('/')[0]}=-"
            )
        taken[name] = theirs[source]
    if not taken:
        raise UserError(
            f"train.init_from: {config.train.init_from} has no parameter of this model, but "
            f"{', '.join(sorted(theirs)[:3])}, ...; name them in train.init_rename"
        )
    left = ", ".join(_groups([name for name in fresh if name not in taken])) or "none"
    processes.log_primary(f"{config.name}: starts from {len(taken)} of {len(fresh)} parameters; fresh: {left}")
    leaves = [taken.get(name, leaf) for name, leaf in fresh.items()]
    params = processes.place(jax.tree.unflatten(jax.tree.structure(state.params), leaves), experiment.params)
    return state.replace(params=params, ema=None if state.ema is None else jax.tree.map(jnp.copy, params))  # type: ignore[attr-defined]


def _renamed(name: str, renamed: Mapping[str, str]) -> str:
    """The name that a parameter has where training starts from; "" for one that stays fresh."""
    for prefix, theirs in renamed.items():
        if name == prefix or name.startswith(f"{prefix}/"):
            return "" if theirs == "-" else theirs + name.removeprefix(prefix)
    return name


def _groups(names: Sequence[str]) -> list[str]:
    """The first two parts of each name, once."""
    return list(dict.fromkeys("/".join(name.split("/")[:2]) for name in names))


@dataclass(frozen=True)
class Schedule:
    """Steps of the whole training, and those after which it evaluates and saves."""

    steps: int
    evaluating: range
    saving: range

    def due(self, step: int) -> tuple[bool, bool]:
        """Whether it evaluates and whether it saves after this step."""
        return step in self.evaluating or step == self.steps, step in self.saving or step == self.steps


def schedule(config: Config, examples: int, history: BatchSizeHistory = ()) -> Schedule:
    """Steps of the whole training, those after which it evaluates, and those after which it saves, from here on.

    Epochs count examples: where the batch changed, what the steps before saw is seen, and an epoch ends where it would
    have ended.

    Args:
        examples: of an epoch.
        stretches: with which batches the training went; none: always with that of the config.

    Raises:
        UserError: where the whole training is shorter than the optimizer's warm-up.
    """
    train = config.train
    history = history or extend((), 0, train.batch)
    first, batch = history[-1]
    seen = examples_seen(history, first)
    steps = train.steps or first + max(math.ceil((train.epochs * examples - seen) / batch), 0)
    epoch, begun = max(round(examples / batch), 1), first - round(seen % examples / batch)

    def every(given: int) -> range:
        return range(0, steps + 1, given) if given else range(begun, steps + 1, epoch)

    warmup = config.optimizer.warmup_steps
    if warmup >= steps:
        raise UserError(f"optimizer.warmup_steps: {warmup} leaves nothing of the {steps} steps of this training")
    return Schedule(steps, every(train.evaluate_every), every(train.checkpoint_every))
