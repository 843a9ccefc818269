"""What training carries from step to step, and what a checkpoint holds."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from mmjax.train.adversary import Adversary, AdversaryState
from mmjax.train.spikes import GradNormEMA, init_grad_norm_ema
from mmjax.train.statistics import ema_update
from mmjax.types import Params


@flax.struct.dataclass
class State:
    """All that determines the rest of the training, given the config.

    Attributes:
        step: steps done, int32.
        params: parameters, float32.
        opt_state: of the optax transformation.
        ema: exponential moving average of the parameters, or None.
        rng: data of a random key, uint32; each step folds its number in.
        nonfinite_steps: how many steps in a row, up to now, had a loss or gradient that was not finite, int32.
        adversary: the second player of adversarial training, or None.
        norms: how large gradients usually are, or None where no step is skipped for its spike.
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
        """The parameters to evaluate and export."""
        return self.params if self.ema is None else self.ema

    def update(
        self,
        tx: optax.GradientTransformation,
        grads: Params,
        finite: jax.Array,
        ema_decay: float,
        adversary: AdversaryState | None = None,
        grad_norm_ema: GradNormEMA | None = None,
        moves: Mapping[str, jax.Array] | None = None,
    ) -> "State":
        """The state after one step, with the second player's and the norms as they shall be then.

        `moves` are how far the statistics of the batch are from their running averages, which are parameters.

        Where the step is not `finite`, or the norm of its update is not, everything stays as it was, but for the
        counters and the norms.
        """
        with jax.numpy_dtype_promotion("standard"):  # optax raises floats to counts
            updates, opt_state = tx.update(grads, self.opt_state, self.params)
        finite &= jnp.isfinite(optax.tree.norm(updates))
        params = optax.apply_updates(self.params, updates)
        if moves:
            finite &= jnp.isfinite(optax.tree.norm(moves))
            params = ema_update(params, moves)
        ema = self.ema
        if ema is not None:
            # Young averages forget faster, so that the initial parameters do not linger (Adam's bias, in short).
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
    """A function, to be jit-compiled with shardings, that makes the state at step 0; no host ever holds it whole.

    Args:
        averaged: with an average of the parameters.
        spikes: with the norms that tell them.
    """

    def make() -> State:
        init_key, step_key = jax.random.split(jax.random.key(seed))
        params = init(init_key)
        zero = jnp.zeros((), jnp.int32)
        ema = jax.tree.map(jnp.copy, params) if with_ema else None
        # A key of its own: the first player begins as it would alone.
        second = adversary and adversary.make_state(jax.random.fold_in(init_key, 1))
        return State(
            zero,
            params,
            tx.init(params),
            ema,
            jax.random.key_data(step_key),
            zero,
            second,
            init_grad_norm_ema() if spikes else None,
        )

    return make


def state_shardings(
    state: State,
    params: Any,
    whole: Any,
    tx: optax.GradientTransformation,
    adversary: tuple[Any, optax.GradientTransformation] | None = None,
) -> State:
    """Shardings of a whole state: whatever mirrors the parameters lies as they do, the rest is whole everywhere.

    Args:
        state: its shapes.
        params: the shardings of the parameters.
        whole: the sharding of what is not split.
        adversary: the shardings of the second player's parameters, and its transformation.
    """

    def like(tx: optax.GradientTransformation, opt_state: Any, params: Any) -> Any:
        def absent(part: Any) -> bool:  # of a transformation that another part of the parameters goes through
            return isinstance(part, optax.MaskedNode)

        def mirrored(part: Any, sharding: Any) -> Any:
            return part if absent(part) else sharding

        return optax.tree_map_params(
            tx, mirrored, opt_state, params, transform_non_params=lambda _: whole, is_leaf=absent
        )

    ema = None if state.ema is None else params
    second = None
    if adversary:
        theirs, their_tx = adversary
        averages = jax.tree.map(lambda _: whole, state.adversary.averages)
        second = AdversaryState(theirs, like(their_tx, state.adversary.opt_state, theirs), averages)
    return State(
        whole,
        params,
        like(tx, state.opt_state, params),
        ema,
        whole,
        whole,
        second,
        jax.tree.map(lambda _: whole, state.grad_norm_ema),
    )
