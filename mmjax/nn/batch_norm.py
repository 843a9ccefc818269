"""Batch normalization, with the statistics of the whole batch wherever its examples lie."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.types import FLOAT32

STATISTICS = "statistics"  # the collection in which what the batch has is put
_EPSILON = 1e-5


class BatchNorm(nn.Module):
    """Normalizes each channel (Ioffe & Szegedy 2015, arXiv:1502.03167) in float32.

    In training by the mean and variance of the batch. Written as sums over all examples, these are sums over all
    devices under jax.jit, however the batch is split. They are put into the collection "statistics", under the names of
    the parameters "mean" and "variance", which no gradient reaches: whoever trains moves those towards them. Evaluation
    normalizes by these parameters.

    Attributes:
        start: the scale of the channels at first.
    """

    scale_init: float = 1.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "b *space c"], valid: Bool[Array, "b"] | None = None, training: bool = False
    ) -> Float[Array, "b *space c"]:
        """Normalizes x; `valid` are the examples that count for the statistics, None: all."""
        shape = (x.shape[-1],)
        old = self.param("mean", nn.initializers.zeros, shape), self.param("variance", nn.initializers.ones, shape)
        scale = self.param("scale", nn.initializers.constant(self.scale_init), shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        mean, variance = _statistics(x, valid, old) if training else map(jax.lax.stop_gradient, old)
        if training:
            for name, value in (("mean", mean), ("variance", variance)):
                self.sow(STATISTICS, name, value, reduce_fn=lambda _, new: new, init_fn=lambda: None)
        factor = scale * jax.lax.rsqrt(variance + _EPSILON)
        shift = bias - mean * factor
        every = range(x.ndim - 1)
        normal = x.astype(FLOAT32) * jnp.expand_dims(factor, every) + jnp.expand_dims(shift, every)
        return normal.astype(x.dtype)


def _statistics(
    x: Float[Array, "b *space c"], valid: Bool[Array, "b"] | None, old: tuple[Float[Array, "c"], Float[Array, "c"]]
) -> tuple[Float[Array, "c"], Float[Array, "c"]]:
    """Mean and variance of each channel over the examples that count; the `old` ones where none does."""
    axes = tuple(range(x.ndim - 1))
    counts = jnp.ones(x.shape[:1], FLOAT32) if valid is None else valid.astype(FLOAT32)
    number = jnp.sum(counts)
    total = jnp.maximum(number, 1.0) * np.float32(np.prod(x.shape[1:-1]))
    # From the differences to the running mean: squares of what is far from 0 would cancel.
    center = jax.lax.stop_gradient(old[0])
    apart = (x.astype(FLOAT32) - jnp.expand_dims(center, axes)) * jnp.expand_dims(counts, range(1, x.ndim))
    offset = jnp.sum(apart, axes) / total
    variance = jnp.maximum(jnp.sum(jnp.square(apart), axes) / total - jnp.square(offset), 0.0)
    return center + offset, jnp.where(number > 0, variance, jax.lax.stop_gradient(old[1]))
