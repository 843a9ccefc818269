"""The training step: one for every objective, with one player or two."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from mmjax.train.adversary import Adversary
from mmjax.train.spikes import is_spike
from mmjax.train.state import State
from mmjax.train.statistics import collect, deltas
from mmjax.types import Batch, Outputs, Params

Apply = Callable[..., Outputs]  # apply(params, **seen)
Metrics = dict[str, jax.Array]
# What the objective needs that is not trained, by name; it finds it in the batch.
Frozen = Mapping[str, Any]
NOTHING: Frozen = {}


@runtime_checkable
class Objective(Protocol):
    def prepare(self, batch: Batch, rng: jax.Array | None) -> dict[str, Any]: ...

    def terms(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]: ...

    def loss(self, terms: dict[str, jax.Array]) -> jax.Array: ...


def make_step(
    apply: Apply,
    objective: Objective,
    tx: optax.GradientTransformation,
    grad_accum_steps: int = 1,
    ema_decay: float = 0.0,
    adversary: Adversary | None = None,
    skip_grad_spikes: float = 0.0,
) -> Callable[..., tuple[State, Metrics]]:
    """The pure function (state, batch, frozen={}) -> (state, metrics), not yet compiled.

    The loss is the mean over the examples of the batch whose mask is True, also where the batch is computed in
    `accumulate` parts: the sum of the parts is divided by the number of examples of the whole.

    With an adversary both players take their step at once, each against the other as it was before.

    What the model found of the batch itself (see mmjax/train/statistics.py) moves the running averages; of a batch in
    parts, the mean over the parts, each as often as it has examples.

    A step whose gradient is more than `skip_grad_spikes` times as large as usual is skipped like one that is not finite.
    """

    def step(state: State, batch: Batch, frozen: Frozen = NOTHING) -> tuple[State, Metrics]:
        key = state.key()
        count = jnp.maximum(jnp.sum(batch["mask"].astype(jnp.float32)), 1.0)

        def means(each: Metrics, mask: jax.Array) -> Metrics:
            return {name: jnp.sum(jnp.where(mask, values, 0.0)) / count for name, values in each.items()}

        def total(params: Params, part: Batch, number: jax.Array) -> tuple[jax.Array, tuple[Metrics, Outputs]]:
            seen = objective.prepare(part, jax.random.fold_in(key, number))
            outputs = apply(params, **seen)
            given = part | seen
            if adversary:
                given |= adversary.loss.adversarial_outputs(state.adversary.params, outputs, part)
            terms = means(objective.terms(outputs, given), part["mask"])
            loss = objective.loss(adversary.gated(terms, state.step) if adversary else terms)
            return loss, (terms | {"loss": loss}, outputs)

        def gradients(params: Params, part: Batch, number: jax.Array) -> tuple[tuple[Params, Any, Metrics], Metrics]:
            part = {**part, **frozen}
            grads, (metrics, outputs) = jax.grad(total, has_aux=True)(params, part, number)
            share = jnp.sum(part["mask"].astype(jnp.float32)) / count
            moves = deltas(params, collect(outputs), share)
            if not adversary:
                return (grads, None, moves), metrics

            def against(params: Params) -> tuple[jax.Array, Metrics]:
                each = adversary.loss.losses(params, outputs, part, state.adversary.averages)
                adversarial = means(each, part["mask"])
                return adversarial["discriminator/loss"], adversarial

            second, adversarial = jax.grad(against, has_aux=True)(state.adversary.params)
            return (grads, second, moves), metrics | adversarial

        (grads, second, moves), metrics = _accumulated(gradients, state.params, batch, grad_accum_steps)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
        opponent = None
        if adversary:
            opponent, moved = adversary.update(state.adversary, second, metrics, state.step)
            finite &= jnp.isfinite(metrics["discriminator/loss"]) & jnp.isfinite(moved)
        grad_norm_ema = state.grad_norm_ema
        if grad_norm_ema is not None:
            grad_norm_ema, spike = is_spike(grad_norm_ema, norm, skip_grad_spikes)
            finite &= ~spike
        state = state.update(tx, grads, finite, ema_decay, opponent, grad_norm_ema, moves)
        read = jnp.sum(batch["mask"].astype(jnp.int32))
        return state, metrics | {"gradient_norm": norm, "nonfinite_steps": state.nonfinite_steps, "examples": read}

    return step


def _accumulated(grad: Callable[..., Any], params: Params, batch: Batch, parts: int) -> tuple[Any, Metrics]:
    """Gradients and metrics of the batch, computed part after part and added up."""
    if parts == 1:
        return grad(params, batch, jnp.int32(0))
    # Part i takes every parts-th row, so that each device keeps computing on the rows that it holds.
    split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)

    def add(total: Any, numbered: tuple[jax.Array, Batch]) -> tuple[Any, None]:
        number, part = numbered
        return jax.tree.map(jnp.add, total, grad(params, part, number)), None

    first = jax.tree.map(lambda x: x[0], split)
    rest = jax.tree.map(lambda x: x[1:], split)
    total, _ = jax.lax.scan(add, grad(params, first, jnp.int32(0)), (jnp.arange(1, parts), rest))
    return total


def make_predict(apply: Apply, objective: Objective) -> Callable[..., dict[str, jax.Array]]:
    """The pure function (params, batch, frozen={}) -> outputs, with "loss" and "terms/NAME" of each example.

    Nothing is withheld from the model.
    """

    def predict(params: Params, batch: Batch, frozen: Frozen = NOTHING) -> dict[str, jax.Array]:
        batch = {**batch, **frozen}
        seen = objective.prepare(batch, None)
        outputs = apply(params, **seen)
        terms = objective.terms(outputs, batch | seen)
        named = {f"terms/{name}": term for name, term in terms.items()}
        return outputs | named | {"loss": objective.loss(terms)}

    return predict
