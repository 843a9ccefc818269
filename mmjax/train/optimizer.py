"""Optimizers: their configs and optax transformations."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from mmjax import registry
from mmjax.config import OptimizerConfig
from mmjax.config.schema import setting
from mmjax.train.kernels import is_stacked, matrix_axes
from mmjax.types import Params, leaf_name

NEWTON_SCHULZ_STEPS = 3  # of Muon; the usual 5 did not learn faster here, and take longer
ADAM_RMS = 0.2  # RMS of Muon's updates before the learning rate, about that of Adam's


@dataclass(frozen=True)
class AdamConfig(OptimizerConfig):
    """Adam (Kingma and Ba 2014).

    Attributes:
        b1, b2: decay rates of the first and second moments.
    """

    b1: float = setting(0.9, at_least=0, below=1)
    b2: float = setting(0.999, at_least=0, below=1)


@dataclass(frozen=True)
class AdamWConfig(AdamConfig):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2017).

    Attributes:
        weight_decay: of matrices and kernels only.
    """

    weight_decay: float = setting(0.0, at_least=0)


@dataclass(frozen=True)
class MuonConfig(AdamWConfig):
    """Muon (Jordan et al. 2024) for kernels, and Adam with Nesterov momentum for other parameters.

    It learns more in a step than Adam, at a higher cost; its learning rate is several times that of Adam.

    Attributes:
        b1, b2: of the Adam part.
        weight_decay: of kernels only.
    """


@dataclass(frozen=True)
class OptimizerSpec:
    """An optimizer that a config can name.

    Attributes:
        make: (config, learning rate schedule) -> the optax transformation, including the learning rate.
        config: dataclass of its fields.
    """

    make: Callable[[Any, optax.Schedule], optax.GradientTransformation]
    config: type[OptimizerConfig] = OptimizerConfig


def make_optimizer(optimizer: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Gradient clipping, followed by the optimizer with its learning rate schedule."""
    spec: OptimizerSpec = registry.find("optimizer", optimizer.kind, "optimizer.kind")
    transformation = spec.make(optimizer, make_schedule(optimizer, steps))
    if not optimizer.grad_clip_norm:
        return transformation
    return optax.chain(optax.clip_by_global_norm(optimizer.grad_clip_norm), transformation)


def without(tx: optax.GradientTransformation, frozen: Sequence[str]) -> optax.GradientTransformation:
    """An optimizer without state of the parameters whose names match one of these patterns, which stay as they are."""
    if not frozen:
        return tx

    def labels(params: Any) -> Any:
        def label(path: jax.tree_util.KeyPath, _: Any) -> str:
            return "frozen" if any(re.fullmatch(pattern, leaf_name(path)) for pattern in frozen) else "trained"

        return jax.tree_util.tree_map_with_path(label, params)

    return optax.multi_transform({"trained": tx, "frozen": optax.set_to_zero()}, labels)


def make_schedule(optimizer: OptimizerConfig, steps: int) -> optax.Schedule:
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


def _adam(config: AdamConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    return optax.adam(schedule, config.b1, config.b2)


def _adamw(config: AdamWConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    return optax.adamw(schedule, config.b1, config.b2, weight_decay=config.weight_decay, mask=_matrices)


def _muon(config: MuonConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Orthogonalizes the momentum of each kernel (https://kellerjordan.github.io/posts/muon).

    Scaled as in Liu et al. 2025 (arXiv:2502.16982).
    """
    return muon(
        schedule,
        ns_steps=NEWTON_SCHULZ_STEPS,
        adam_b1=config.b1,
        adam_b2=config.b2,
        weight_decay=config.weight_decay,
        consistent_rms=ADAM_RMS,
        muon_weight_dimension_numbers=kernel_axes,
    )


def _matrices(params: Params) -> Params:
    return jax.tree_util.tree_map_with_path(lambda path, p: p.ndim - is_stacked(path) > 1, params)


def kernel_axes(params: Any) -> Any:
    """The input and output axes of each kernel as a matrix, for Muon; None for other parameters."""

    def axes(path: jax.tree_util.KeyPath, leaf: jax.Array) -> MuonDimensionNumbers | None:
        found = matrix_axes(path, leaf)
        return found and MuonDimensionNumbers(*found)

    return jax.tree_util.tree_map_with_path(axes, params)


OPTIMIZERS = {
    "adam": OptimizerSpec(_adam, AdamConfig),
    "adamw": OptimizerSpec(_adamw, AdamWConfig),
    "muon": OptimizerSpec(_muon, MuonConfig),
}
