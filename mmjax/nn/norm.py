"""Layer normalization, and batch normalization over the global batch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.types import FLOAT32

BATCH_STATS = "batch_stats"  # the collection of the batch's means and variances
_EPSILON = 1e-5


def layer_norm(x: Float[Array, "b *rest d"], name: str, epsilon: float = 1e-6) -> Float[Array, "b *rest d"]:
    """Layer normalization of the last axis (Ba et al. 2016), in float32 for any dtype of x. Call it inside a module."""
    return nn.LayerNorm(epsilon, dtype=FLOAT32, name=name)(x.astype(FLOAT32)).astype(x.dtype)


class BatchNorm(nn.Module):
    """Batch normalization (Ioffe & Szegedy 2015, arXiv:1502.03167) in float32.

    The statistics are those of the global batch: under jax.jit their sums are over all devices. In training they are
    sown into the collection "batch_stats". Unlike in flax.linen.BatchNorm the running averages "mean" and "variance"
    are parameters without a gradient, which the train step updates (train/batch_stats.py): checkpoints, sharding rules
    and the parameter EMA need no special case.
    """

    scale_init: float = 1.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "b *space c"], valid: Bool[Array, "b"] | None = None, training: bool = False
    ) -> Float[Array, "b *space c"]:
        """Normalizes x, in training by the statistics of the `valid` examples (None: all), else by running averages."""
        shape = (x.shape[-1],)
        old = self.param("mean", nn.initializers.zeros, shape), self.param("variance", nn.initializers.ones, shape)
        scale = self.param("scale", nn.initializers.constant(self.scale_init), shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        mean, variance = _statistics(x, valid, old) if training else map(jax.lax.stop_gradient, old)
        if training:
            for name, value in (("mean", mean), ("variance", variance)):
                self.sow(BATCH_STATS, name, value, reduce_fn=lambda _, new: new, init_fn=lambda: None)
        factor = scale * jax.lax.rsqrt(variance + _EPSILON)
        shift = bias - mean * factor
        every = range(x.ndim - 1)
        normal = x.astype(FLOAT32) * jnp.expand_dims(factor, every) + jnp.expand_dims(shift, every)
        return normal.astype(x.dtype)


def _statistics(
    x: Float[Array, "b *space c"], valid: Bool[Array, "b"] | None, old: tuple[Float[Array, "c"], Float[Array, "c"]]
) -> tuple[Float[Array, "c"], Float[Array, "c"]]:
    """Mean and variance of each channel over the valid examples; `old` if there is none."""
    axes = tuple(range(x.ndim - 1))
    counts = jnp.ones(x.shape[:1], FLOAT32) if valid is None else valid.astype(FLOAT32)
    number = jnp.sum(counts)
    total = jnp.maximum(number, 1.0) * np.float32(np.prod(x.shape[1:-1]))
    # Centered at the running mean: the difference of large squares would lose precision.
    center = jax.lax.stop_gradient(old[0])
    apart = (x.astype(FLOAT32) - jnp.expand_dims(center, axes)) * jnp.expand_dims(counts, range(1, x.ndim))
    offset = jnp.sum(apart, axes) / total
    variance = jnp.maximum(jnp.sum(jnp.square(apart), axes) / total - jnp.square(offset), 0.0)
    return center + offset, jnp.where(number > 0, variance, jax.lax.stop_gradient(old[1]))
