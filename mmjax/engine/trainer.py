"""Builds the train step and state of an experiment, and the schedule of evaluations and checkpoints."""

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
    """What training adds to an experiment.

    Attributes:
        shapes: shapes and shardings of the state.
        make_state: returns the state at step 0, created sharded.
        step: (state, placed batch) -> (state, metrics); donates the state.
        lower: (shapes of a batch) -> the lowered step.
    """

    shapes: State
    make_state: Callable[[], State]
    step: Callable[[State, Any], tuple[State, dict[str, jax.Array]]]
    lower: Callable[[Any], jax.stages.Lowered]


def build(experiment: Experiment, steps: int) -> Training:
    """Builds the training of an experiment for a number of steps."""
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
    """Returns the function that makes the state at step 0."""
    return make_state(
        lambda key: models.init(config, key),
        tx,
        config.seed,
        config.optimizer.ema_decay > 0,
        adversary,
        config.train.skip_grad_spikes > 0,
    )


def state_shapes(config: Config, placement: Placement, steps: int) -> State:
    """Shapes and shardings of the train state."""
    tx, adversary = make_optimizer(config.optimizer, steps), _adversary(config, DEFAULT)
    shapes = jax.eval_shape(_maker(config, tx, adversary))
    return _placed(shapes, _state_shardings(config, shapes, placement, tx, adversary))


def _placed(shapes: State, shardings: State) -> State:
    def placed(leaf: jax.ShapeDtypeStruct, where: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    state: State = jax.tree.map(placed, shapes, shardings)
    return state


def _state_shardings(
    config: Config, shapes: State, placement: Placement, tx: optax.GradientTransformation, adversary: Adversary | None
) -> State:
    params, adversary_rules = match_rules(shapes.params, models.sharding_rules(config), placement.mesh), None
    if adversary:
        rules = discriminator.sharding_rules(config)
        adversary_rules = (match_rules(shapes.adversary.params, rules, placement.mesh), adversary.tx)
    return state_shardings(shapes, params, placement.replicated, tx, adversary_rules)


def _adversary(config: Config, compute: Compute) -> Adversary | None:
    """The discriminator, if a loss needs one."""
    terms = losses.adversarial_terms(config)
    if not terms:
        return None
    fields, module = config.discriminator, discriminator.build(config, compute)

    def apply(params: Params, image: jax.Array) -> Any:
        return module.apply({"params": params}, image)

    return Adversary(
        init=lambda key: discriminator.init(config, key),
        tx=optax.adam(fields.learning_rate, fields.b1, fields.b2),
        loss=adversarial.Adversarial(apply, fields.loss, fields.regularizer, fields.regularizer_weight),
        terms=terms,
        train_from=fields.train_from,
        start=fields.start,
    )


def first_state(given: Params | None, experiment: Experiment, training: Training) -> State:
    """Returns the state at step 0, initialized from the parameters of another model if given.

    Args:
        given: parameters of another model, matched by name after train.init_rename; the others are initialized. Logs
            which are.

    Raises:
        UserError: if a matched parameter has another shape, or none matches.
    """
    state = training.make_state()
    if given is None:
        return state
    fresh, config = flatten(state.params), experiment.config
    pretrained, matched = flatten(given), {}
    for name, leaf in fresh.items():
        source = _renamed(name, config.train.init_rename)
        if source not in pretrained:
            continue
        if pretrained[source].shape != leaf.shape:
            raise UserError(
                f"train.init_from: {source} of {config.train.init_from or 'pretraining'} has shape "
                f"{pretrained[source].shape}, and {name} has {leaf.shape}; leave it fresh with "
                f"--config.train.init_rename.{name.partition('/')[0]}=-"
            )
        matched[name] = pretrained[source]
    if not matched:
        raise UserError(
            f"train.init_from: {config.train.init_from} has no parameter of this model, but "
            f"{', '.join(sorted(pretrained)[:3])}, ...; name them in train.init_rename"
        )
    left = ", ".join(_groups([name for name in fresh if name not in matched])) or "none"
    processes.log_primary(f"{config.name}: starts from {len(matched)} of {len(fresh)} parameters; fresh: {left}")
    leaves = [matched.get(name, leaf) for name, leaf in fresh.items()]
    params = processes.place(jax.tree.unflatten(jax.tree.structure(state.params), leaves), experiment.params)
    return state.replace(params=params, ema=None if state.ema is None else jax.tree.map(jnp.copy, params))  # type: ignore[attr-defined]


def _renamed(name: str, renamed: Mapping[str, str]) -> str:
    """The name of a parameter in the model that training starts from; "" for one to initialize."""
    for prefix, source in renamed.items():
        if name == prefix or name.startswith(f"{prefix}/"):
            return "" if source == "-" else source + name.removeprefix(prefix)
    return name


def _groups(names: Sequence[str]) -> list[str]:
    """The distinct first two path components of names."""
    return list(dict.fromkeys("/".join(name.split("/")[:2]) for name in names))


@dataclass(frozen=True)
class Schedule:
    """Number of training steps, and the steps after which to evaluate and save."""

    steps: int
    evaluating: range
    saving: range

    def due(self, step: int) -> tuple[bool, bool]:
        """Whether to evaluate and whether to save after a step."""
        return step in self.evaluating or step == self.steps, step in self.saving or step == self.steps


def schedule(config: Config, examples: int, history: BatchSizeHistory = ()) -> Schedule:
    """Returns the schedule of a training from its last change of batch size on.

    Epochs count examples, so that a change of batch size does not move the end of an epoch.

    Args:
        examples: number of examples per epoch.
        history: batch sizes so far; empty: always that of the config.

    Raises:
        UserError: if the training is not longer than the warm-up.
    """
    train = config.train
    history = history or extend((), 0, train.batch)
    first, batch = history[-1]
    seen = examples_seen(history, first)
    steps = train.steps or first + max(math.ceil((train.epochs * examples - seen) / batch), 0)
    epoch, begun = max(round(examples / batch), 1), first - round(seen % examples / batch)

    def every(interval: int) -> range:
        return range(0, steps + 1, interval) if interval else range(begun, steps + 1, epoch)

    warmup = config.optimizer.warmup_steps
    if warmup >= steps:
        raise UserError(f"optimizer.warmup_steps: {warmup} leaves nothing of the {steps} steps of this training")
    return Schedule(steps, every(train.evaluate_every), every(train.checkpoint_every))
