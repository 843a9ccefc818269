"""The training step: one for every objective."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from mmjax.train.state import State
from mmjax.types import Batch, Outputs, Params

Apply = Callable[..., Outputs]  # apply(params, **seen)
Metrics = dict[str, jax.Array]


@runtime_checkable
class Objective(Protocol):
    def prepare(self, batch: Batch, rng: jax.Array | None) -> dict[str, Any]: ...

    def terms(self, outputs: Outputs, batch: Batch) -> dict[str, jax.Array]: ...

    def loss(self, terms: dict[str, jax.Array]) -> jax.Array: ...


def make_step(
    apply: Apply, objective: Objective, tx: optax.GradientTransformation, accumulate: int = 1, ema_decay: float = 0.0
) -> Callable[[State, Batch], tuple[State, Metrics]]:
    """The pure function (state, batch) -> (state, metrics), not yet compiled.

    The loss is the mean over the examples of the batch whose mask is True, also where the batch is computed in
    `accumulate` parts: the sum of the parts is divided by the number of examples of the whole.
    """

    def step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key = state.key()
        count = jnp.maximum(jnp.sum(batch["mask"].astype(jnp.float32)), 1.0)

        def total(params: Params, part: Batch, number: jax.Array) -> tuple[jax.Array, Metrics]:
            outputs = apply(params, **objective.prepare(part, jax.random.fold_in(key, number)))
            each = objective.terms(outputs, part)
            terms = {name: jnp.sum(jnp.where(part["mask"], term, 0.0)) / count for name, term in each.items()}
            loss = objective.loss(terms)
            return loss, terms | {"loss": loss}

        grads, metrics = _accumulated(jax.grad(total, has_aux=True), state.params, batch, accumulate)
        norm = optax.tree.norm(grads)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
        state = state.update(tx, grads, finite, ema_decay)
        read = jnp.sum(batch["mask"].astype(jnp.int32))
        return state, metrics | {"gradient_norm": norm, "bad_steps": state.bad_steps, "examples": read}

    return step


def _accumulated(grad: Callable[..., Any], params: Params, batch: Batch, parts: int) -> tuple[Params, Metrics]:
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


def make_predict(apply: Apply, objective: Objective) -> Callable[[Params, Batch], dict[str, jax.Array]]:
    """The pure function (params, batch) -> outputs with "loss" and "terms/NAME" of each example, nothing withheld."""

    def predict(params: Params, batch: Batch) -> dict[str, jax.Array]:
        outputs = apply(params, **objective.prepare(batch, None))
        terms = objective.terms(outputs, batch)
        named = {f"terms/{name}": term for name, term in terms.items()}
        return outputs | named | {"loss": objective.loss(terms)}

    return predict
