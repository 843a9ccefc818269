"""The second player of adversarial training: its part of the state, and its part of a step."""

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
    """What the second player carries from step to step.

    Attributes:
        params: parameters, float32.
        opt_state: of its optax transformation.
        averages: running averages of its logits on originals, "real", and on what was drawn, "fake".
    """

    params: Any
    opt_state: Any
    averages: Any


@runtime_checkable
class DiscriminatorLoss(Protocol):
    """What the second player minimizes, and what it tells the first; see mmjax/losses/adversarial.py."""

    def adversarial_outputs(self, params: Params, outputs: Outputs, batch: Batch) -> dict[str, Any]: ...

    def losses(
        self, params: Params, outputs: Outputs, batch: Batch, averages: dict[str, jax.Array]
    ) -> dict[str, jax.Array]: ...


@dataclass(frozen=True)
class Adversary:
    """The second player.

    Attributes:
        init: makes its parameters from a random key.
        terms: names of the first player's terms that depend on it; they count from the step `start` on.
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
        """The first player's terms as they count at this step."""
        started = step >= self.start
        return {name: jnp.where(started, term, 0.0) if name in self.terms else term for name, term in terms.items()}

    def update(
        self, state: AdversaryState, grads: Params, metrics: dict[str, jax.Array], step: jax.Array
    ) -> tuple[AdversaryState, jax.Array]:
        """The state after one step, and the norm of its update."""
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to counts
            updates, opt_state = self.tx.update(grads, state.opt_state, state.params)
        # Young averages forget faster, so that the zeros they begin with do not linger.
        count = jnp.maximum(step - self.train_from, 0).astype(jnp.float32)
        decay = jnp.minimum(jnp.float32(DECAY), count / (count + 1.0))
        averages = {
            name: old + (1.0 - decay) * (metrics[f"discriminator/{name}"] - old) for name, old in state.averages.items()
        }
        new = AdversaryState(optax.apply_updates(state.params, updates), opt_state, averages)
        trained = step >= self.train_from
        kept: AdversaryState = jax.tree.map(lambda n, o: jnp.where(trained, n, o), new, state)
        return kept, optax.tree.norm(updates)
