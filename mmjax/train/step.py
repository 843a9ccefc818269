"""The train step: one for every training loss, with or without a discriminator."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from mmjax.train.adversary import Adversary
from mmjax.train.batch_stats import ema_deltas
from mmjax.train.spikes import is_spike
from mmjax.train.state import State
from mmjax.types import Batch, Outputs, Params

Apply = Callable[..., Outputs]  # apply(params, **inputs)
Metrics = dict[str, jax.Array]
# Frozen parameters that the training loss needs, by name; they are added to the batch.
Frozen = Mapping[str, Any]
NO_FROZEN: Frozen = {}


@runtime_checkable
class TrainingLoss(Protocol):
    def prepare(self, batch: Batch, rng: jax.Array | None) -> dict[str, Any]: ...

    def terms(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]: ...

    def loss(self, terms: dict[str, jax.Array]) -> jax.Array: ...


def make_step(
    apply: Apply,
    training_loss: TrainingLoss,
    tx: optax.GradientTransformation,
    grad_accum_steps: int = 1,
    ema_decay: float = 0.0,
    adversary: Adversary | None = None,
    skip_grad_spikes: float = 0.0,
) -> Callable[..., tuple[State, Metrics]]:
    """The pure function (state, batch, frozen={}) -> (state, metrics), to be compiled.

    The loss is the mean over the batch's examples whose mask is True, for any `grad_accum_steps`: the sum over the
    microbatches is divided by the number of examples in the whole batch. Batch statistics are averaged over
    microbatches, weighted by their number of examples; see batch_stats.

    The generator and the discriminator of adversarial training are updated simultaneously.

    A step whose gradient norm is above `skip_grad_spikes` times its running average is skipped like a non-finite one.
    """

    def step(state: State, batch: Batch, frozen: Frozen = NO_FROZEN) -> tuple[State, Metrics]:
        count = jnp.maximum(jnp.sum(batch["mask"].astype(jnp.float32)), 1.0)
        gradients = _make_gradients(apply, training_loss, adversary, state, frozen, count)
        (grads, adversary_grads, deltas), metrics = _accumulated(gradients, batch, grad_accum_steps)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
        new_adversary = None
        if adversary:
            new_adversary, update_norm = adversary.update(state.adversary, adversary_grads, metrics, state.step)
            finite &= jnp.isfinite(metrics["discriminator/loss"]) & jnp.isfinite(update_norm)
        grad_norm_ema = state.grad_norm_ema
        if grad_norm_ema is not None:
            grad_norm_ema, spike = is_spike(grad_norm_ema, norm, skip_grad_spikes)
            finite &= ~spike
        state = state.update(tx, grads, finite, ema_decay, new_adversary, grad_norm_ema, deltas)
        examples = jnp.sum(batch["mask"].astype(jnp.int32))
        return state, metrics | {"gradient_norm": norm, "nonfinite_steps": state.nonfinite_steps, "examples": examples}

    return step


def _make_gradients(
    apply: Apply,
    training_loss: TrainingLoss,
    adversary: Adversary | None,
    state: State,
    frozen: Frozen,
    count: jax.Array,
) -> Callable[[Batch, jax.Array], tuple[tuple[Params, Any, Metrics], Metrics]]:
    """The function (microbatch, its number) -> (gradients, those of the discriminator, deltas), metrics.

    All are the microbatch's part of those of the whole batch, which has `count` examples; for the deltas see
    batch_stats.
    """
    key = state.key()

    def means(each: Metrics, mask: jax.Array) -> Metrics:
        return {name: jnp.sum(jnp.where(mask, values, 0.0)) / count for name, values in each.items()}

    def total(params: Params, part: Batch, number: jax.Array) -> tuple[jax.Array, tuple[Metrics, Outputs]]:
        inputs = training_loss.prepare(part, jax.random.fold_in(key, number))
        outputs = apply(params, **inputs)
        given = part | inputs
        if adversary:
            given |= adversary.loss.adversarial_outputs(state.adversary.params, outputs, part)
        terms = means(training_loss.terms(outputs, given), part["mask"])
        loss = training_loss.loss(adversary.gated(terms, state.step) if adversary else terms)
        return loss, (terms | {"loss": loss}, outputs)

    def gradients(part: Batch, number: jax.Array) -> tuple[tuple[Params, Any, Metrics], Metrics]:
        part = {**part, **frozen}
        grads, (metrics, outputs) = jax.grad(total, has_aux=True)(state.params, part, number)
        weight = jnp.sum(part["mask"].astype(jnp.float32)) / count
        deltas = ema_deltas(state.params, outputs, weight)
        if not adversary:
            return (grads, None, deltas), metrics

        def discriminator_loss(params: Params) -> tuple[jax.Array, Metrics]:
            each = adversary.loss.losses(params, outputs, part, state.adversary.averages)
            adversarial = means(each, part["mask"])
            return adversarial["discriminator/loss"], adversarial

        adversary_grads, adversarial = jax.grad(discriminator_loss, has_aux=True)(state.adversary.params)
        return (grads, adversary_grads, deltas), metrics | adversarial

    return gradients


def _accumulated(grad: Callable[..., Any], batch: Batch, parts: int) -> tuple[Any, Metrics]:
    """Gradients and metrics of the batch, accumulated over microbatches."""
    if parts == 1:
        return grad(batch, jnp.int32(0))
    # Microbatch i takes every parts-th row, so that each device keeps its own rows.
    split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)

    def add(total: Any, numbered: tuple[jax.Array, Batch]) -> tuple[Any, None]:
        number, part = numbered
        return jax.tree.map(jnp.add, total, grad(part, number)), None

    first = jax.tree.map(lambda x: x[0], split)
    rest = jax.tree.map(lambda x: x[1:], split)
    total, _ = jax.lax.scan(add, grad(first, jnp.int32(0)), (jnp.arange(1, parts), rest))
    return total


def make_predict(apply: Apply, training_loss: TrainingLoss) -> Callable[..., dict[str, jax.Array]]:
    """The pure function (params, batch, frozen={}) -> outputs, with "loss" and "terms/NAME" of each example.

    As in evaluation: nothing is dropped out or withheld from the model.
    """

    def predict(params: Params, batch: Batch, frozen: Frozen = NO_FROZEN) -> dict[str, jax.Array]:
        batch = {**batch, **frozen}
        inputs = training_loss.prepare(batch, None)
        outputs = apply(params, **inputs)
        terms = training_loss.terms(outputs, batch | inputs)
        named = {f"terms/{name}": term for name, term in terms.items()}
        return outputs | named | {"loss": training_loss.loss(terms)}

    return predict
