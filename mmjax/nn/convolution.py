"""Convolutions and transposed convolutions of any rank: 1 for audio, 2 for images, 3 for video."""

import functools
import itertools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.norm import layer_norm


def transposed_convolution(
    x: Float[Array, "b *space c"], kernel: Float[Array, "*window c e"], implementation: str = "native"
) -> Float[Array, "b *double e"]:
    """Transposed convolution with kernel 4, stride 2 and padding 1, which doubles every spatial side.

    output[2 i + a - 1] += x[i] kernel[a] along each axis (Dumoulin & Visin 2016, section 4.3). The kernel is stored in
    that order, as in PyTorch's ConvTranspose.

    Args:
        x: the input, with as many spatial axes as the kernel.
        kernel: 4 along each spatial axis, then input and output channels.
        implementation: "native", one convolution over the dilated input, for TPUs and GPUs; or "matmul", one matrix
            product whose results are shifted and added, many times faster on a CPU. The values are the same.
    """
    rank = x.ndim - 2
    if implementation == "native":
        flipped = jnp.flip(kernel, range(rank))
        return _convolve(x, flipped, (1,) * rank, ((2, 2),) * rank, dilation=(2,) * rank)
    return _scatter(x, kernel) if rank == 3 else _transposed(x, kernel)


@jax.custom_vjp
def _transposed(x: Float[Array, "b *space c"], kernel: Float[Array, "*window c e"]) -> Float[Array, "b *double e"]:
    """_scatter with the gradients of the convolution of which it is the transpose: XLA computes these faster."""
    return _scatter(x, kernel)


def _transposed_fwd(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _scatter(x, kernel), (x, kernel)


def _transposed_bwd(saved: tuple[jax.Array, jax.Array], grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    rank = x.ndim - 2

    def strided(kernel: jax.Array) -> jax.Array:
        return _convolve(grad, kernel.swapaxes(-1, -2), (2,) * rank, ((1, 1),) * rank)

    of_x, of_kernel = jax.vjp(strided, kernel)
    return of_x, *of_kernel(x)


_transposed.defvjp(_transposed_fwd, _transposed_bwd)


def _scatter(x: Float[Array, "b *space c"], kernel: Float[Array, "*window c e"]) -> Float[Array, "b *double e"]:
    """The transposed convolution as a matrix product."""
    rank = x.ndim - 2
    # Tap 2 block + phase of x[i] lands on output 2 (i + block) + phase - 1: one matrix product for all taps, then the
    # blocks are shifted and added, and the phases interleaved.
    sides, features = x.shape[1:-1], kernel.shape[-1]
    taps = _product(x, jnp.moveaxis(kernel, rank, 0).reshape(x.shape[-1], -1))
    taps = taps.reshape(*x.shape[:-1], *(4,) * rank, features)
    total = jnp.zeros((x.shape[0], *(n + 1 for n in sides), *(2,) * rank, features), x.dtype)
    for blocks in itertools.product((0, 1), repeat=rank):
        phases = taps[(..., *(slice(2 * block, 2 * block + 2) for block in blocks), slice(None))]
        shift = ((block, 1 - block) for block in blocks)
        total += jnp.pad(phases, ((0, 0), *shift, *((0, 0),) * (rank + 1)))
    order = [0, *itertools.chain.from_iterable((1 + i, 1 + rank + i) for i in range(rank)), 1 + 2 * rank]
    whole = total.transpose(order).reshape(x.shape[0], *(2 * n + 2 for n in sides), features)
    return whole[(slice(None), *(slice(1, -1),) * rank)]


def convolution(
    x: Float[Array, "b *space c"],
    kernel: Float[Array, "*window c e"],
    stride: Sequence[int],
    causal: bool = False,
    implementation: str = "native",
) -> Float[Array, "b *less e"]:
    """Convolution with zero "SAME" padding: a side n becomes ceil(n / stride).

    The front padding centers the first window on the first input, unless less padding is needed in all.

    Args:
        x: the input, with as many spatial axes as the kernel.
        kernel: the kernel size along each spatial axis, then input and output channels.
        stride: along each spatial axis.
        causal: the first spatial axis is time and padded in front only, so that no output depends on later inputs (van
            den Oord et al. 2016, arXiv:1609.03499).
        implementation: "native", or "matmul", which convolves clips by one matrix product over the taps, faster on a
            CPU. The values are the same.
    """
    kernel_size = kernel.shape[:-2]
    padding = []
    for axis, (side, taps, step) in enumerate(zip(x.shape[1:-1], kernel_size, stride, strict=True)):
        total = max((-(-side // step) - 1) * step + taps - side, 0)
        front = taps - 1 if causal and axis == 0 else min((taps - 1) // 2, total)
        padding.append((front, max(total - front, 0)))
    if implementation == "native" or x.ndim < 5:
        return _convolve(x, kernel, stride, padding)
    return _over_time(jnp.pad(x, ((0, 0), *padding, (0, 0))), kernel, stride)


def _product(x: Float[Array, "*space c"], matrix: Float[Array, "c e"]) -> Float[Array, "*space e"]:
    # Flattened to two axes: with more, XLA on CPUs is twice as slow.
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], -1)


def _columns(
    x: Float[Array, "b y x c"], kernel_size: Sequence[int], stride: Sequence[int]
) -> Float[Array, "b rows columns k"]:
    """The input patch of each window, flattened (im2col)."""
    if tuple(kernel_size) == tuple(stride):  # non-overlapping windows: a reshape
        (b, rows, columns, c), (high, wide) = x.shape, kernel_size
        cut = x.reshape(b, rows // high, high, columns // wide, wide, c).swapaxes(2, 3)
        return cut.reshape(*cut.shape[:3], -1)
    sides = [(side - taps) // step + 1 for side, taps, step in zip(x.shape[1:-1], kernel_size, stride, strict=True)]

    def tap(place: tuple[int, ...]) -> jax.Array:
        spans = zip(place, sides, stride, strict=True)
        return x[(slice(None), *(slice(p, p + (n - 1) * step + 1, step) for p, n, step in spans))]

    return jnp.concatenate([tap(place) for place in itertools.product(*map(range, kernel_size))], axis=-1)


def _over_time(
    x: Float[Array, "b f y x c"], kernel: Float[Array, "w h v c e"], stride: Sequence[int]
) -> Float[Array, "b g rows columns e"]:
    """Convolves each frame with the taps of all times, then adds up the frames.

    On a CPU many times faster than im2col over three axes.
    """
    times, features = kernel.shape[0], kernel.shape[-1]
    frames = x.reshape(-1, *x.shape[2:])
    taps = jnp.moveaxis(kernel, 0, -2).reshape(-1, times * features)
    each = _product(_columns(frames, kernel.shape[1:3], stride[1:]), taps)
    each = each.reshape(*x.shape[:2], *each.shape[1:3], times, features)
    last = x.shape[1] - times + 1
    total = each[:, : last : stride[0], ..., 0, :]
    for i in range(1, times):
        total += each[:, i : i + last : stride[0], ..., i, :]
    return total


def _convolve(
    x: jax.Array,
    kernel: jax.Array,
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int] | None = None,
) -> jax.Array:
    letters = "0123456789"[: x.ndim - 2]  # names of the spatial axes
    numbers = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    return jax.lax.conv_general_dilated(x, kernel, stride, padding, lhs_dilation=dilation, dimension_numbers=numbers)


class Convolution(nn.Module):
    """Convolution over all axes between batch and channels; sizes are of each axis, or one number for all."""

    features: int
    kernel_size: int | Sequence[int] = 3
    stride: int | Sequence[int] = 1
    causal: bool = False
    use_bias: bool = True
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *less e"]:
        dtype = self.compute.dtype
        kernel_size, stride = (np.broadcast_to(n, x.ndim - 2).tolist() for n in (self.kernel_size, self.stride))
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (*kernel_size, x.shape[-1], self.features))
        y = convolution(x.astype(dtype), kernel.astype(dtype), stride, self.causal, self.compute.convolution)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return y + jnp.expand_dims(bias.astype(dtype), range(y.ndim - 1))


class TransposedConvolution(nn.Module):
    """Transposed convolution that doubles every spatial side; see transposed_convolution.

    With `causal` the first axis is time: 1 + k frames become 1 + 2 k, and output frame t depends on the inputs up to
    ceil(t / 2), so the first frame on the first input alone.
    """

    features: int
    causal: bool = False
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *double e"]:
        rank, dtype = x.ndim - 2, self.compute.dtype
        # Only 2 of the 4 taps along each axis reach an output: the fan-in is that of these.
        initializer = nn.initializers.variance_scaling(2.0**rank, "fan_in", "truncated_normal")
        kernel = self.param("kernel", initializer, (*(4,) * rank, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = transposed_convolution(x.astype(dtype), kernel.astype(dtype), self.compute.convolution)
        y = y[:, :-1] if self.causal else y
        return y + jnp.expand_dims(bias.astype(dtype), range(y.ndim - 1))


class ResidualBlock(nn.Module):
    """Pre-activation residual block of two convolutions, of any rank; keeps the shape.

    LayerNorm over the channels, not GroupNorm, so that normalization mixes neither positions nor frames.
    """

    causal: bool = False
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, x: Float[Array, "b *space c"]) -> Float[Array, "b *space c"]:
        convolve = functools.partial(Convolution, x.shape[-1], causal=self.causal, compute=self.compute)
        y = convolve(name="first")(nn.silu(layer_norm(x, "norm_first")))
        # Without the constraint, jaxlib 0.10 picks a sharding here with which some gradients are wrong.
        y = self.compute.partitioner.with_sharding_constraint(y)
        return x + convolve(name="second")(nn.silu(layer_norm(y, "norm_second")))
