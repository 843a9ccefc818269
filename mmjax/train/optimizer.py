"""From the optimizer's configuration to an optax transformation."""

import jax
import optax

from mmjax import config
from mmjax.types import Params


def make_schedule(optimizer: config.Optimizer, steps: int) -> optax.Schedule:
    """The learning rate at each step: linear warm-up, then the schedule down to step `steps`."""
    peak, warmup = optimizer.learning_rate, optimizer.warmup_steps
    rest = max(steps - warmup, 1)
    after = {
        "constant": optax.constant_schedule(peak),
        "cosine": optax.cosine_decay_schedule(peak, rest),
        "linear": optax.linear_schedule(peak, 0.0, rest),
    }[optimizer.schedule]
    if not warmup:
        return after
    rise = optax.linear_schedule(peak / warmup, peak, max(warmup - 1, 1))
    return optax.join_schedules([rise, after], [warmup])


def make_optimizer(optimizer: config.Optimizer, steps: int) -> optax.GradientTransformation:
    """Clipping, Adam, decoupled weight decay on everything that is no vector, and the schedule, in this order."""

    def matrices(params: Params) -> Params:
        return jax.tree.map(lambda p: p.ndim > 1, params)

    parts = [optax.scale_by_adam(optimizer.b1, optimizer.b2)]
    if optimizer.clip:
        parts.insert(0, optax.clip_by_global_norm(optimizer.clip))
    if optimizer.name == "adamw":
        parts.append(optax.add_decayed_weights(optimizer.weight_decay, matrices))
    return optax.chain(*parts, optax.scale_by_learning_rate(make_schedule(optimizer, steps)))
