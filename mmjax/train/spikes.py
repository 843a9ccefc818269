"""Gradient spikes: steps whose gradient norm is far above its running average."""

import flax.struct
import jax
import jax.numpy as jnp

DECAY = 0.98  # of the running average
WARMUP = 20  # norms before the average is trusted


@flax.struct.dataclass
class GradNormEMA:
    """The running average of the gradient norm, float32 [], and the number of norms in it, int32 []."""

    average: jax.Array
    count: jax.Array


def init_grad_norm_ema() -> GradNormEMA:
    return GradNormEMA(jnp.zeros(()), jnp.zeros((), jnp.int32))


def is_spike(ema: GradNormEMA, norm: jax.Array, factor: float) -> tuple[GradNormEMA, jax.Array]:
    """The updated average, and whether `norm` is above `factor` times the average before it, or NaN.

    A spike enters the average clipped to that limit, so that an average that is too low recovers within a few steps. A
    norm that is not finite is left out.
    """
    limit = jnp.where(ema.count >= WARMUP, jnp.float32(factor) * ema.average, jnp.inf)
    count = ema.count.astype(jnp.float32)
    decay = jnp.minimum(jnp.float32(DECAY), count / (count + 1.0))  # EMA warm-up: the mean of the first norms
    average = decay * ema.average + (1.0 - decay) * jnp.minimum(norm, limit)
    finite = jnp.isfinite(norm)
    updated = GradNormEMA(jnp.where(finite, average, ema.average), ema.count + finite.astype(jnp.int32))
    return updated, ~(norm <= limit)
