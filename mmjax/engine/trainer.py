"""Builds the train step and state of an experiment, and the schedule of evaluations and checkpoints."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mmjax import losses, models
from mmjax.config import Config
from mmjax.engine.setup import Experiment
from mmjax.export.model_folder import flatten
from mmjax.losses import TrainingLoss, adversarial
from mmjax.models import discriminator
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.parallel import Placement, match_rules, processes
from mmjax.train import lora
from mmjax.train.adversary import Adversary
from mmjax.train.batch_size_history import BatchSizeHistory, examples_seen, extend
from mmjax.train.optimizer import make_optimizer, without
from mmjax.train.state import State, make_state, state_shardings
from mmjax.train.step import make_step
from mmjax.types import Outputs, Params, UserError


@dataclass(frozen=True)
class Training:
    """What training adds to an experiment.

    Attributes:
        shapes: shapes and shardings of the state.
        make_state: returns the state at step 0, created sharded.
        step: (state, placed batch, frozen=frozen) -> (state, metrics); donates the state.
        lower: (shapes of a batch) -> the lowered step.
        apply: what is trained, apply(params of the state, **inputs): the model, or its LoRA.
        loss: its loss.
        frozen: what the step is given beside the state and the batch, or shapes of it.
        full: (params of the state) -> parameters of the model.
    """

    shapes: State
    make_state: Callable[[], State]
    step: Callable[..., tuple[State, dict[str, jax.Array]]]
    lower: Callable[[Any], jax.stages.Lowered]
    apply: Callable[..., Outputs]
    loss: TrainingLoss
    frozen: Mapping[str, Any]
    full: Callable[[Params], Params]


def build(experiment: Experiment, steps: int, base: Params | None = None) -> Training:
    """Builds the training of an experiment for a number of steps.

    Args:
        base: parameters of the model that a LoRA adds to; None: its shapes, to lower the step only.
    """
    config, placement = experiment.config, experiment.placement
    apply, loss, frozen = experiment.apply, experiment.loss, dict(experiment.frozen)
    frozen_shardings: dict[str, Any] = dict.fromkeys(frozen, placement.replicated)
    if config.lora.rank:
        apply = lora.make_apply(apply, lora.scale(config.lora))
        loss = dataclasses.replace(loss, inputs=lora.with_base(loss.inputs))
        placed = None if base is None else processes.place(base, experiment.params)
        frozen[lora.BASE] = placed or base_shapes(config, placement)
        frozen_shardings[lora.BASE] = experiment.params
    tx, adversary, make = _state(config, steps, experiment.compute)
    shapes = _placed(config, placement, tx, adversary, make)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    step = jax.jit(
        make_step(
            apply,
            loss,
            tx,
            config.optimizer.grad_accum_steps,
            config.optimizer.ema_decay,
            adversary,
            config.train.skip_grad_spikes,
        ),
        in_shardings=(shardings, placement.batch, frozen_shardings),
        out_shardings=(shardings, placement.replicated),
        donate_argnums=0,
        compiler_options=placement.compiler_options,
    )
    return Training(
        shapes=shapes,
        make_state=jax.jit(make, out_shardings=shardings),
        step=lambda state, batch, frozen=frozen: step(state, batch, frozen),
        lower=lambda batch: step.lower(shapes, batch, frozen),
        apply=apply,
        loss=loss,
        frozen=frozen,
        full=_full(config, experiment, frozen, shardings.params),
    )


def _full(config: Config, experiment: Experiment, frozen: Mapping[str, Any], params: Any) -> Callable[[Params], Params]:
    """The function (params of the state, on the devices) -> parameters of the model."""
    if not config.lora.rank:
        return lambda params: params
    merge = functools.partial(lora.merged, scale=lora.scale(config.lora))
    merged = jax.jit(merge, in_shardings=(experiment.params, params), out_shardings=experiment.params)
    return lambda params: merged(frozen[lora.BASE], params)


def base_shapes(config: Config, placement: Placement) -> Params:
    """Shapes and shardings of the model that a LoRA adds to; empty without a LoRA."""
    if not config.lora.rank:
        return {}
    shapes = jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    shardings = match_rules(shapes, models.sharding_rules(config), placement.mesh)
    placed: Params = jax.tree.map(lambda leaf, where: leaf.update(sharding=where), shapes, shardings)
    return placed


def _init(config: Config) -> Callable[[jax.Array], Params]:
    """Initializes what is trained: the model, or its LoRA."""
    if not config.lora.rank:
        return functools.partial(models.init, config)
    shapes = jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    return functools.partial(lora.init, config.lora, shapes)


def state_shapes(config: Config, placement: Placement, steps: int) -> State:
    """Shapes and shardings of the train state."""
    return _placed(config, placement, *_state(config, steps, DEFAULT))


def _state(
    config: Config, steps: int, compute: Compute
) -> tuple[optax.GradientTransformation, Adversary | None, Callable[[], State]]:
    """The optimizer, the discriminator, and the function that makes the state at step 0."""
    tx, adversary = make_optimizer(config.optimizer, steps), _adversary(config, compute)
    if not config.lora.rank:  # else all that it is given is trained
        tx = without(tx, models.find(config).frozen(config))
    with_ema, spikes = config.optimizer.ema_decay > 0, config.train.skip_grad_spikes > 0
    return tx, adversary, make_state(_init(config), tx, config.seed, with_ema, adversary, spikes)


def _placed(
    config: Config,
    placement: Placement,
    tx: optax.GradientTransformation,
    adversary: Adversary | None,
    make: Callable[[], State],
) -> State:
    """Shapes of the state with their shardings."""
    shapes, mesh, adversary_shardings = jax.eval_shape(make), placement.mesh, None
    if config.lora.rank:
        base = base_shapes(config, placement)
        params = lora.shardings(config.lora, base, jax.tree.map(lambda leaf: leaf.sharding, base))
    else:
        params = match_rules(shapes.params, models.sharding_rules(config), mesh)
    if adversary:
        rules = discriminator.sharding_rules(config)
        adversary_shardings = (match_rules(shapes.adversary.params, rules, mesh), adversary.tx)
    shardings = state_shardings(shapes, params, placement.replicated, tx, adversary_shardings)
    placed: State = jax.tree.map(lambda leaf, where: leaf.update(sharding=where), shapes, shardings)
    return placed


def _adversary(config: Config, compute: Compute) -> Adversary | None:
    """The discriminator, if a loss needs one."""
    terms = losses.adversarial_terms(config)
    if not terms:
        return None
    fields, module = config.discriminator, discriminator.build(config, compute)

    def apply(params: Params, image: jax.Array) -> Any:
        return module.apply({"params": params}, image)

    return Adversary(
        init=functools.partial(discriminator.init, config),
        tx=optax.adam(fields.learning_rate, fields.b1, fields.b2),
        loss=adversarial.Adversarial(apply, fields.loss, fields.regularizer, fields.regularizer_weight),
        terms=terms,
        train_from=fields.train_from,
        start=fields.start,
    )


def first_state(
    given: Params | None, experiment: Experiment, training: Training, encoder: Mapping[str, jax.Array] | None = None
) -> State:
    """Returns the state at step 0, initialized from the parameters of another model if given.

    Args:
        encoder: parameters of the pretrained image encoder, by name, laid out over the devices.
        given: parameters of another model, matched by name after train.init_rename; the others are initialized. Logs
            which are.

    Raises:
        UserError: if a matched parameter has another shape, or none matches.
    """
    state = training.make_state()
    if encoder:
        leaves = [encoder.get(name, leaf) for name, leaf in flatten(state.params).items()]
        state = _with_params(state, jax.tree.unflatten(jax.tree.structure(state.params), leaves))
    if given is None:
        return state
    fresh, config = flatten(state.params), experiment.config
    matched = match_params(config, given, state.params)
    groups = dict.fromkeys("/".join(name.split("/")[:2]) for name in fresh if name not in matched)
    left = ", ".join(groups) or "none"
    processes.log_primary(f"{config.name}: starts from {len(matched)} of {len(fresh)} parameters; fresh: {left}")
    leaves = [matched.get(name, leaf) for name, leaf in fresh.items()]
    params = processes.place(jax.tree.unflatten(jax.tree.structure(state.params), leaves), experiment.params)
    return _with_params(state, params)


def _with_params(state: State, params: Params) -> State:
    ema = None if state.ema is None else jax.tree.map(jnp.copy, params)
    return dataclasses.replace(state, params=params, ema=ema)


def match_params(config: Config, given: Params, fresh: Params) -> dict[str, Any]:
    """The parameters of another model by their names in a model, whose parameters or their shapes are `fresh`.

    Raises:
        UserError: see first_state; with a LoRA, also for parameters that the other model lacks.
    """
    shapes, pretrained = flatten(fresh), flatten(given)
    sources = {name: _renamed(name, config.train.init_rename) for name in shapes}
    matched = {name: pretrained[source] for name, source in sources.items() if source in pretrained}
    for name, leaf in matched.items():
        if leaf.shape != shapes[name].shape:
            raise UserError(
                f"train.init_from: {sources[name]} of {config.train.init_from or 'pretraining'} has shape "
                f"{leaf.shape}, and {name} has {shapes[name].shape}; leave it fresh with "
                f"--config.train.init_rename.{name.partition('/')[0]}=-"
            )
    if not matched:
        raise UserError(
            f"train.init_from: {config.train.init_from} has no parameter of this model, but "
            f"{', '.join(sorted(pretrained)[:3])}, ...; name them in train.init_rename"
        )
    if config.lora.rank and (missing := sorted(shapes.keys() - matched.keys())):
        raise UserError(
            f"train.init_from: {config.train.init_from or 'pretraining'} has no {missing[0]}, which a LoRA would not "
            "train; name a model of the same config"
        )
    return matched


def _renamed(name: str, renamed: Mapping[str, str]) -> str:
    """The name of a parameter in the model that training starts from; "" for one to initialize."""
    for prefix, source in renamed.items():
        if name == prefix or name.startswith(f"{prefix}/"):
            return "" if source == "-" else source + name.removeprefix(prefix)
    return name


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
