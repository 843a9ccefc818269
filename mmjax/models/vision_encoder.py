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
    """The sharding rules of a VisionEncoder with these fields."""
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
    """Maps images, or the spectrograms of sounds, to one feature a patch, row by row.

    No parameter depends on the sides, which may differ from each other and from those seen in training.

    Attributes:
        patch: side of a patch in pixels. Where it does not divide a side, zeros are put around.
        width, layers, heads: of the transformer.
        registers: learned tokens beside those of the patches, which are left out of the result (Darcet et al. 2023,
            arXiv:2309.16588).
        masking: patches can be hidden, and a learned vector stands for them (SimMIM, Xie et al. 2022,
            arXiv:2111.09886).
        stem: channels of convolutions that halve the sides, each with a residual block, in place of the linear map of
            whole patches, of which as much is left as they leave: small models learn much sooner with them (Xiao et
            al. 2021, arXiv:2106.14881).
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
        """The features of all patches.

        Args:
            hidden: True where nothing is seen of a patch but its place.

        Raises:
            ValueError: for hidden patches without `masking`.
        """
        compute = self.compute
        convolve: dict[str, Any] = {"implementation": compute.convolution, "dtype": compute.dtype}
        if hidden is not None:  # convolutions see more than a patch
            sides = (-(-side // self.patch) for side in x.shape[1:3])
            seen = ~hidden.reshape(-1, *sides).repeat(self.patch, 1).repeat(self.patch, 2)
            x = jnp.where(seen[:, : x.shape[1], : x.shape[2], None], x, 0.0)
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
            given = self.param("register", nn.initializers.normal(0.02), (self.registers, d)).astype(compute.dtype)
            tokens = jnp.concatenate([tokens, jnp.broadcast_to(given[None], (b, *given.shape))], axis=1)
            angles = np.pad(angles, ((0, self.registers), (0, 0)))  # they are nowhere in particular
        stack = Stack(self.layers, self.heads, compute, name="stack")
        return layer_norm(stack(tokens, angles=angles)[:, :n], "norm")
