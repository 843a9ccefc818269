"""Vision encoders: vision transformers over patches of images or tubelets of clips.

Dosovitskiy et al. 2021 (arXiv:2010.11929). No parameter depends on the size of images or the length of clips.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.models.rules import STACK, Rules
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.convolution import Convolution, ResidualBlock
from mmjax.nn.norm import layer_norm
from mmjax.nn.positions import rope_angles, sincos_grid
from mmjax.nn.transformer import Stack

VIDEO_RULES: Rules = (*STACK, (r".*tubelets/kernel", (None, None, None, None, "fsdp")))


def rules(registers: int = 0, masking: bool = False, stem: Sequence[int] = ()) -> Rules:
    """Sharding rules of a VisionEncoder with these fields."""
    table = {
        r".*stem_0/kernel": ((None, None, None, "model"), stem),  # its input is pixels
        r".*stem_\d+/kernel": ((None, None, "fsdp", "model"), stem[1:]),
        r".*stem_block_\d+/(first|second)/kernel": ((None, None, "fsdp", "model"), stem),
        r".*patches/kernel": ((None, None, None, "fsdp"), True),
        r".*register": ((None, "fsdp"), registers),
        r".*mask": (("fsdp",), masking),
    }
    return (*STACK, *((name, axes) for name, (axes, used) in table.items() if used))


class VisionEncoder(nn.Module):
    """Encodes images or spectrograms into one feature per patch, in row-major order.

    Attributes:
        patch: side of a patch in pixels; images are zero-padded to a multiple of it.
        width, layers, heads: of the transformer.
        registers: learned extra tokens, which are not returned (Darcet et al. 2023, arXiv:2309.16588).
        masking: patches can be masked by a learned embedding (SimMIM, Xie et al. 2022, arXiv:2111.09886).
        stem: channels of convolutions of stride 2, each with a residual block, before patches of the remaining size:
            small models learn much faster with them (Xiao et al. 2021, arXiv:2106.14881).
    """

    patch: int
    width: int
    layers: int
    heads: int
    compute: Compute = DEFAULT
    registers: int = 0
    masking: bool = False
    stem: Sequence[int] = ()

    @nn.compact
    def __call__(self, x: Float[Array, "b y x c"], hidden: Bool[Array, "b n"] | None = None) -> Float[Array, "b n d"]:
        """Returns the features of all patches.

        Args:
            hidden: with `masking`, True where only the position of a patch is visible.
        """
        compute = self.compute
        if hidden is not None:  # the stem's receptive field exceeds a patch
            sides = (-(-side // self.patch) for side in x.shape[1:3])
            visible = ~hidden.reshape(-1, *sides).repeat(self.patch, 1).repeat(self.patch, 2)
            x = jnp.where(visible[:, : x.shape[1], : x.shape[2], None], x, 0.0)
        for i, channels in enumerate(self.stem):
            x = Convolution(channels, 4, 2, compute=compute, name=f"stem_{i}")(x)
            x = compute.partitioner.with_sharding_constraint(x)  # see convolution.ResidualBlock
            x = ResidualBlock(compute=compute, name=f"stem_block_{i}")(x)
        patch = self.patch // 2 ** len(self.stem)
        grid = Convolution(self.width, patch, patch, compute=compute, name="patches")(x)
        b, rows, columns, d = grid.shape
        n = rows * columns
        tokens = grid.reshape(b, n, d)
        if self.masking:
            mask = self.param("mask", nn.initializers.normal(0.02), (d,)).astype(compute.dtype)
            tokens = tokens if hidden is None else jnp.where(hidden[..., None], mask[None, None], tokens)
        tokens += sincos_grid((rows, columns), d)[None].astype(compute.dtype)
        angles = rope_angles((rows, columns), d // self.heads)
        if self.registers:
            register = self.param("register", nn.initializers.normal(0.02), (self.registers, d)).astype(compute.dtype)
            tokens = jnp.concatenate([tokens, jnp.broadcast_to(register[None], (b, *register.shape))], axis=1)
            angles = np.pad(angles, ((0, self.registers), (0, 0)))  # registers have no position
        x, _ = Stack(self.layers, self.heads, compute, name="stack")(tokens, angles=angles)
        return layer_norm(x[:, :n], "norm")


class VideoEncoder(nn.Module):
    """Encodes clips into one feature per tubelet, in row-major order.

    Each layer attends within each frame, then over time at each position (Arnab et al. 2021, arXiv:2103.15691, model
    3): f frames of n patches cost f n (f + n) products instead of (f n) ** 2. For one frame the layers are those of a
    VisionEncoder.

    Attributes:
        patch, time: side in pixels and frames of a tubelet; clips are zero-padded to multiples of them.
        width, layers, heads: of the transformer.
    """

    patch: int
    time: int
    width: int
    layers: int
    heads: int
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, x: Float[Array, "b f y x c"]) -> Float[Array, "b n d"]:
        window = (self.time, self.patch, self.patch)
        grid = Convolution(self.width, window, window, compute=self.compute, name="tubelets")(x)
        b, *sides, d = grid.shape
        tokens = grid.reshape(b, -1, d) + sincos_grid(sides, d)[None].astype(self.compute.dtype)
        stack = Stack(self.layers, self.heads, self.compute, sides[0], name="stack")
        return layer_norm(stack(tokens, angles=rope_angles(sides[1:], d // self.heads))[0], "norm")
