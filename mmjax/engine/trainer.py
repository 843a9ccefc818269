"""From the parts of a config to what trains them: the step, the state, and when it is evaluated and saved."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mmjax import models
from mmjax.config import Config
from mmjax.engine.setup import Parts
from mmjax.export.load import load
from mmjax.export.model_folder import flatten
from mmjax.losses import adversarial
from mmjax.models import discriminator
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


def build_training(parts: Parts, steps: int) -> Training:
    """What trains the parts for so many steps."""
    config, placement = parts.config, parts.placement
    tx, adversary = make_optimizer(config.optimizer, steps), _adversary(config)
    make = _maker(config, tx, adversary)
    shapes = jax.eval_shape(make)
    shardings = _state_shardings(config, shapes, placement, tx, adversary)
    step = jax.jit(
        make_step(
            parts.apply,
            parts.objective,
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
        step=lambda state, batch: step(state, batch, parts.frozen),
        lower=lambda batch: step.lower(placed, batch, parts.frozen),
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
    tx, adversary = make_optimizer(config.optimizer, steps), _adversary(config)
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


def _adversary(config: Config) -> Adversary | None:
    """The discriminator, where the objective needs one."""
    if not config.adversarial_terms:
        return None
    second, module = config.discriminator, discriminator.build(config)

    def apply(params: Params, image: jax.Array) -> Any:
        return module.apply({"params": params}, image)

    return Adversary(
        init=lambda key: discriminator.init(config, key),
        tx=optax.adam(second.learning_rate, second.b1, second.b2),
        loss=adversarial.Adversarial(apply, second.loss, second.regularizer, second.regularizer_weight),
        terms=config.adversarial_terms,
        train_from=second.train_from,
        start=second.start,
    )


def first_state(start_from: str | Path, parts: Parts, training: Training) -> State:
    """The state at step 0: fresh parameters, or those of a workdir or model folder to start from, if one is named.

    Raises:
        UserError: where those are of another architecture.
    """
    state = training.make_state()
    if not start_from:
        return state
    given, wanted = flatten(load(start_from).params), flatten(training.shapes.params)
    for name in sorted(set(given) | set(wanted)):
        was, now = (tree[name].shape if name in tree else "none" for tree in (given, wanted))
        if was != now:
            raise UserError(
                f"train.init_from: {start_from} is of another architecture: its {name} is {was}, and the "
                f"config's is {now}"
            )
    params = jax.tree.unflatten(jax.tree.structure(state.params), [given[name] for name in wanted])
    params = processes.place(params, parts.params)
    return state.replace(params=params, ema=None if state.ema is None else jax.tree.map(jnp.copy, params))  # type: ignore[attr-defined]


def intervals(config: Config, examples: int, history: BatchSizeHistory = ()) -> tuple[int, range, range]:
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
    return steps, every(train.evaluate_every), every(train.checkpoint_every)
