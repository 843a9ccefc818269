"""Convolutions and transposed convolutions of any rank: 1 for sound, 2 for pictures, 3 for video."""

import itertools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmjax.types import FLOAT32


def transposed_convolution(
    x: Float[Array, "b *space c"], kernel: Float[Array, "*window c e"], form: str = "native"
) -> Float[Array, "b *double e"]:
    """Doubles every spatial side: transposed convolution with kernel 4, stride 2, one pixel cut at each border.

    output[2 i + a - 1] += x[i] kernel[a] along each axis (Dumoulin & Visin 2016, section 4.3). The kernel is stored
    in that order, as PyTorch's ConvTranspose stores it.

    Args:
        x: the input; as many spatial axes as the kernel has.
        kernel: 4 along each spatial axis, then input and output channels.
        form: how it is computed, to the same values: "native" as one convolution over the input spread apart by
            zeros, which TPUs and GPUs do natively; "matmul" as one matrix product whose results are shifted and
            added, many times faster on a CPU.

    Raises:
        ValueError: for another form, or a kernel that is not 4 long.
    """
    rank = x.ndim - 2
    if kernel.shape[:rank] != (4,) * rank or kernel.ndim != rank + 2:
        raise ValueError(
            f"transposed convolution of rank {rank} needs a kernel of 4 along each axis, not {kernel.shape}"
        )
    if form == "native":
        flipped = jnp.flip(kernel, range(rank))
        return _convolve(x, flipped, (1,) * rank, ((2, 2),) * rank, dilation=(2,) * rank)
    if form != "matmul":
        raise ValueError(f"transposed convolution form {form!r}: must be 'dilated' or 'matmul'")
    # Tap 2 block + phase of x[i] lands on output 2 (i + block) + phase - 1: one matrix product for all taps, then the
    # blocks are shifted and added, and the phases put between each other.
    sides, features = x.shape[1:-1], kernel.shape[-1]
    # As a product of two matrices: XLA on CPUs is twice as slow where the left side has more axes.
    taps = x.reshape(-1, x.shape[-1]) @ jnp.moveaxis(kernel, rank, 0).reshape(x.shape[-1], -1)
    taps = taps.reshape(*x.shape[:-1], *(4,) * rank, features)
    total = jnp.zeros((x.shape[0], *(n + 1 for n in sides), *(2,) * rank, features), x.dtype)
    for blocks in itertools.product((0, 1), repeat=rank):
        phases = taps[(..., *(slice(2 * block, 2 * block + 2) for block in blocks), slice(None))]
        shift = ((block, 1 - block) for block in blocks)
        total += jnp.pad(phases, ((0, 0), *shift, *((0, 0),) * (rank + 1)))
    order = [0, *itertools.chain.from_iterable((1 + i, 1 + rank + i) for i in range(rank)), 1 + 2 * rank]
    whole = total.transpose(order).reshape(x.shape[0], *(2 * n + 2 for n in sides), features)
    return whole[(slice(None), *(slice(1, -1),) * rank)]


def _convolve(
    x: jax.Array,
    kernel: jax.Array,
    stride: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    dilation: Sequence[int] | None = None,
) -> jax.Array:
    letters = "0123456789"[: x.ndim - 2]  # names of the spatial axes
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    return jax.lax.conv_general_dilated(x, kernel, stride, padding, lhs_dilation=dilation, dimension_numbers=numbers)


class Convolution(nn.Module):
    """A convolution over as many axes as the input has between batch and channels, borders padded with zeros.

    Attributes:
        features: output channels.
        window, stride: along each axis.
    """

    features: int
    window: int = 3
    stride: int = 1
    dtype: np.dtype = FLOAT32

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *less e"]:
        rank = x.ndim - 2
        shape = (*(self.window,) * rank, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = _convolve(x.astype(self.dtype), kernel.astype(self.dtype), (self.stride,) * rank, "SAME")
        return y + jnp.expand_dims(bias.astype(self.dtype), range(y.ndim - 1))


class TransposedConvolution(nn.Module):
    """Doubles every spatial side; see transposed_convolution."""

    features: int
    form: str = "native"
    dtype: np.dtype = FLOAT32

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *double e"]:
        rank = x.ndim - 2
        shape = (*(4,) * rank, x.shape[-1], self.features)
        # Each output sees 2 of the 4 taps along each axis: the variance is that of the taps it sees.
        initializer = nn.initializers.variance_scaling(2.0**rank, "fan_in", "truncated_normal")
        kernel = self.param("kernel", initializer, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = transposed_convolution(x.astype(self.dtype), kernel.astype(self.dtype), self.form)
        return y + jnp.expand_dims(bias.astype(self.dtype), range(y.ndim - 1))
