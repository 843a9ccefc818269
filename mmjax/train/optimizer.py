"""Optimizers: from the config to an optax transformation."""

from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from mmjax import config
from mmjax.types import Params, leaf_name

NEWTON_SCHULZ_STEPS = 3  # of Muon; the usual 5 did not learn faster here, and take longer
ADAM_RMS = 0.2  # RMS of Muon's updates before the learning rate, about that of Adam's


def make_schedule(optimizer: config.OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate schedule: linear warm-up, then the decay until step `steps`."""
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


def make_optimizer(optimizer: config.OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Gradient clipping, Adam or Muon, decoupled weight decay of matrices, and the learning rate, in this order.

    Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; scaled as in Liu et al. 2025, arXiv:2502.16982)
    orthogonalizes the momentum of each kernel; other parameters are updated by Adam with Nesterov momentum.
    """
    schedule = make_schedule(optimizer, steps)
    parts = [optax.clip_by_global_norm(optimizer.grad_clip_norm)] if optimizer.grad_clip_norm else []
    if optimizer.name == "muon":
        parts.append(
            muon(
                schedule,
                ns_steps=NEWTON_SCHULZ_STEPS,
                adam_b1=optimizer.b1,
                adam_b2=optimizer.b2,
                weight_decay=optimizer.weight_decay,
                consistent_rms=ADAM_RMS,
                muon_weight_dimension_numbers=kernel_axes,
            )
        )
        return optax.chain(*parts)
    parts.append(optax.scale_by_adam(optimizer.b1, optimizer.b2))
    if optimizer.name == "adamw":
        parts.append(optax.add_decayed_weights(optimizer.weight_decay, _matrices))
    return optax.chain(*parts, optax.scale_by_learning_rate(schedule))


def _matrices(params: Params) -> Params:
    return jax.tree_util.tree_map_with_path(lambda path, p: p.ndim - _is_stacked(path) > 1, params)


def _is_stacked(path: jax.tree_util.KeyPath) -> bool:
    """Whether a parameter belongs to a scanned stack, "block", and has the layers as its first axis."""
    return "block" in leaf_name(path).split("/")


def kernel_axes(params: Any) -> Any:
    """The input and output axes of each kernel as a matrix, for Muon; None for other parameters.

    The layers of a scanned stack are separate matrices.
    """

    def axes(path: jax.tree_util.KeyPath, leaf: jax.Array) -> MuonDimensionNumbers | None:
        *modules, name = leaf_name(path).split("/")
        if name != "kernel":
            return None
        own = range(_is_stacked(path), leaf.ndim)
        heads = modules[-1:] in (["q"], ["k"], ["v"])
        split = 1 if heads else len(own) - 1
        return MuonDimensionNumbers(tuple(own[:split]), tuple(own[split:]))

    return jax.tree_util.tree_map_with_path(axes, params)
