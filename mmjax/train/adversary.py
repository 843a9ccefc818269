"""The discriminator of adversarial training: its state, and its part of the train step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
import optax

from mmjax.types import Batch, Outputs, Params

DECAY = 0.99  # of the running averages


@flax.struct.dataclass
class AdversaryState:
    """The discriminator's part of the train state.

    Attributes:
        params: parameters, float32.
        opt_state: of its optax transformation.
        averages: running averages of its logits on real ("real") and generated ("fake") examples.
    """

    params: Any
    opt_state: Any
    averages: Any


@runtime_checkable
class DiscriminatorLoss(Protocol):
    """The losses of a discriminator, and its outputs for the generator's losses; see mmjax/losses/adversarial.py."""

    def adversarial_outputs(self, params: Params, outputs: Outputs, batch: Batch) -> dict[str, Any]: ...

    def losses(
        self, params: Params, outputs: Outputs, batch: Batch, averages: dict[str, jax.Array]
    ) -> dict[str, jax.Array]: ...


@dataclass(frozen=True)
class Adversary:
    """A discriminator with its optimizer and loss.

    Attributes:
        init: initializes its parameters from a random key.
        terms: the generator's loss terms that depend on it, which are 0 before the step `start`.
        train_from: the step from which it is trained.
    """

    init: Callable[[jax.Array], Params]
    tx: optax.GradientTransformation
    loss: DiscriminatorLoss
    terms: tuple[str, ...]
    train_from: int = 0
    start: int = 0

    def make_state(self, key: jax.Array) -> AdversaryState:
        params = self.init(key)
        zero = jnp.zeros(())
        return AdversaryState(params, self.tx.init(params), {"real": zero, "fake": zero})

    def gated(self, terms: dict[str, jax.Array], step: jax.Array) -> dict[str, jax.Array]:
        """The generator's loss terms, with the adversarial ones 0 before `start`."""
        started = step >= self.start
        return {name: jnp.where(started, term, 0.0) if name in self.terms else term for name, term in terms.items()}

    def update(
        self, state: AdversaryState, grads: Params, metrics: dict[str, jax.Array], step: jax.Array
    ) -> tuple[AdversaryState, jax.Array]:
        """The state after one step, and the norm of the update."""
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to counts
            updates, opt_state = self.tx.update(grads, state.opt_state, state.params)
        # EMA warm-up: a plain mean at first, so that the initial zeros do not linger.
        count = jnp.maximum(step - self.train_from, 0).astype(jnp.float32)
        decay = jnp.minimum(jnp.float32(DECAY), count / (count + 1.0))
        averages = {
            name: old + (1.0 - decay) * (metrics[f"discriminator/{name}"] - old) for name, old in state.averages.items()
        }
        new = AdversaryState(optax.apply_updates(state.params, updates), opt_state, averages)
        trained = step >= self.train_from
        kept: AdversaryState = jax.tree.map(lambda n, o: jnp.where(trained, n, o), new, state)
        return kept, optax.tree.norm(updates)
