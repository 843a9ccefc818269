"""The train state: what training carries from step to step and what a checkpoint holds."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from mmjax.train.adversary import Adversary, AdversaryState
from mmjax.train.batch_stats import ema_update
from mmjax.train.spikes import GradNormEMA, init_grad_norm_ema
from mmjax.types import Params


@flax.struct.dataclass
class State:
    """The train state. Together with the config it determines the rest of the training.

    Attributes:
        step: number of steps done, int32.
        params: parameters, float32.
        opt_state: of the optax transformation.
        ema: exponential moving average of the parameters, or None.
        rng: data of the base random key, uint32; each step folds in its number.
        nonfinite_steps: number of consecutive steps skipped up to now, int32.
        adversary: the state of the discriminator in adversarial training, or None.
        grad_norm_ema: running average of the gradient norm, or None if spikes are not skipped.
    """

    # Arrays; the same tree also carries their shapes, and their shardings.
    step: Any
    params: Any
    opt_state: Any
    ema: Any
    rng: Any
    nonfinite_steps: Any
    adversary: Any = None
    grad_norm_ema: Any = None

    def key(self) -> jax.Array:
        """The random key of this step."""
        return jax.random.fold_in(jax.random.wrap_key_data(self.rng), self.step)

    def eval_params(self) -> Params:
        """The parameters to evaluate and export: the EMA, if there is one."""
        return self.params if self.ema is None else self.ema

    def update(
        self,
        tx: optax.GradientTransformation,
        grads: Params,
        finite: jax.Array,
        ema_decay: float,
        adversary: AdversaryState | None = None,
        grad_norm_ema: GradNormEMA | None = None,
        deltas: Mapping[str, jax.Array] | None = None,
    ) -> "State":
        """The state after one step.

        If the step is not `finite`, or the norm of the update or of `deltas` is not, only the step counters and the
        gradient norm change.

        Args:
            adversary, grad_norm_ema: their new values.
            deltas: differences of batch statistics from their running averages; see batch_stats.
        """
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to counts
            updates, opt_state = tx.update(grads, self.opt_state, self.params)
        finite &= jnp.isfinite(optax.tree.norm(updates))
        params = optax.apply_updates(self.params, updates)
        if deltas:
            finite &= jnp.isfinite(optax.tree.norm(deltas))
            params = ema_update(params, deltas)
        ema = self.ema
        if ema is not None:
            # EMA warm-up, so that the initial parameters do not linger.
            count = self.step.astype(jnp.float32)
            decay = jnp.minimum(jnp.float32(ema_decay), (1.0 + count) / (10.0 + count))
            ema = jax.tree.map(lambda old, new: old + (1.0 - decay) * (new - old), ema, params)
        new = (params, opt_state, ema, adversary)
        old = (self.params, self.opt_state, self.ema, self.adversary)
        params, opt_state, ema, adversary = jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)
        nonfinite_steps = jnp.where(finite, 0, self.nonfinite_steps + 1)
        return State(self.step + 1, params, opt_state, ema, self.rng, nonfinite_steps, adversary, grad_norm_ema)


def make_state(
    init: Callable[[jax.Array], Params],
    tx: optax.GradientTransformation,
    seed: int,
    with_ema: bool,
    adversary: Adversary | None = None,
    spikes: bool = False,
) -> Callable[[], State]:
    """A function that initializes the state at step 0, to be jit-compiled with output shardings.

    Args:
        with_ema: with an EMA of the parameters.
        spikes: with the running average of the gradient norm.
    """

    def make() -> State:
        init_key, step_key = jax.random.split(jax.random.key(seed))
        params = init(init_key)
        zero = jnp.zeros((), jnp.int32)
        ema = jax.tree.map(jnp.copy, params) if with_ema else None
        state = State(zero, params, tx.init(params), ema, jax.random.key_data(step_key), zero)
        # Its own key, so that the generator is initialized as without a discriminator.
        adversary_state = adversary and adversary.make_state(jax.random.fold_in(init_key, 1))
        grad_norm_ema = init_grad_norm_ema() if spikes else None
        return dataclasses.replace(state, adversary=adversary_state, grad_norm_ema=grad_norm_ema)

    return make


def state_shardings(
    state: State,
    params: Any,
    replicated: Any,
    tx: optax.GradientTransformation,
    adversary: tuple[Any, optax.GradientTransformation] | None = None,
) -> State:
    """The shardings of a state: what mirrors the parameters is sharded like them, everything else is replicated.

    Args:
        state: shapes of the state.
        params: shardings of the parameters.
        replicated: the sharding of everything else.
        adversary: shardings of the discriminator's parameters, and its optax transformation.
    """

    def masked(part: Any) -> bool:  # a parameter of another transformation of the partition
        return isinstance(part, optax.MaskedNode)

    def like(tx: optax.GradientTransformation, opt_state: Any, params: Any) -> Any:
        def mirrored(part: Any, sharding: Any) -> Any:
            return part if masked(part) else sharding

        return optax.tree_map_params(
            tx, mirrored, opt_state, params, transform_non_params=lambda _: replicated, is_leaf=masked
        )

    shardings: State = jax.tree.map(lambda _: replicated, state)
    opt_state, ema = like(tx, state.opt_state, params), None if state.ema is None else params
    shardings = dataclasses.replace(shardings, params=params, opt_state=opt_state, ema=ema)
    if adversary:
        params, tx = adversary
        opt_state = like(tx, state.adversary.opt_state, params)
        adversary = dataclasses.replace(shardings.adversary, params=params, opt_state=opt_state)
        shardings = dataclasses.replace(shardings, adversary=adversary)
    return shardings
