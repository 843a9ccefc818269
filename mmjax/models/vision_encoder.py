"""Vision encoder: a vision transformer over square patches (Dosovitskiy et al. 2021, arXiv:2010.11929)."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.models.rules import STACK, Rules
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.convolution import Convolution
from mmjax.nn.norm import layer_norm
from mmjax.nn.positions import rope_angles, sincos_2d
from mmjax.nn.residual import ResidualBlock
from mmjax.nn.transformer import Stack


def rules(registers: int = 0, masking: bool = False, stem: Sequence[int] = ()) -> Rules:
    """Sharding rules of a VisionEncoder with these fields."""
    convolutions: Rules = (
        (r".*stem_0/kernel", (None, None, None, "model")),  # its input is pixels
        *(((r".*stem_\d+/kernel", (None, None, "fsdp", "model")),) if len(stem) > 1 else ()),
        (r".*stem_block_\d+/(first|second)/kernel", (None, None, "fsdp", "model")),
    )
    return (
        *STACK,
        *(convolutions if stem else ()),
        (r".*patches/kernel", (None, None, None, "fsdp")),
        *(((r".*register", (None, "fsdp")),) if registers else ()),
        *(((r".*mask", ("fsdp",)),) if masking else ()),
    )


class VisionEncoder(nn.Module):
    """Encodes images or spectrograms into one feature per patch, in row-major order.

    No parameter depends on the image size.

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
            hidden: True where only the position of a patch is visible.

        Raises:
            ValueError: for hidden patches without `masking`.
        """
        compute = self.compute
        convolve: dict[str, Any] = {"implementation": compute.convolution, "dtype": compute.dtype}
        if hidden is not None:  # the stem's receptive field exceeds a patch
            sides = (-(-side // self.patch) for side in x.shape[1:3])
            visible = ~hidden.reshape(-1, *sides).repeat(self.patch, 1).repeat(self.patch, 2)
            x = jnp.where(visible[:, : x.shape[1], : x.shape[2], None], x, 0.0)
        for i, channels in enumerate(self.stem):
            x = Convolution(channels, 4, 2, **convolve, name=f"stem_{i}")(x)
            x = compute.partitioner.with_sharding_constraint(x)  # see nn/residual
            x = ResidualBlock(False, compute.convolution, compute.dtype, compute.partitioner, name=f"stem_block_{i}")(x)
        patch = self.patch // 2 ** len(self.stem)
        grid = Convolution(self.width, patch, patch, **convolve, name="patches")(x)
        b, rows, columns, d = grid.shape
        n = rows * columns
        tokens = grid.reshape(b, n, d)
        if self.masking:
            mask = self.param("mask", nn.initializers.normal(0.02), (d,)).astype(compute.dtype)
            tokens = tokens if hidden is None else jnp.where(hidden[..., None], mask[None, None], tokens)
        elif hidden is not None:
            raise ValueError("hidden patches: this encoder was made without masking")
        tokens += sincos_2d(rows, columns, d)[None].astype(compute.dtype)
        angles = rope_angles((rows, columns), d // self.heads)
        if self.registers:
            register = self.param("register", nn.initializers.normal(0.02), (self.registers, d)).astype(compute.dtype)
            tokens = jnp.concatenate([tokens, jnp.broadcast_to(register[None], (b, *register.shape))], axis=1)
            angles = np.pad(angles, ((0, self.registers), (0, 0)))  # registers have no position
        stack = Stack(self.layers, self.heads, compute, name="stack")
        return layer_norm(stack(tokens, angles=angles)[:, :n], "norm")
