"""Video encoder: a 3-D convolution stem, and a transformer whose attention is factorized over space and time."""

import flax.linen as nn
from jaxtyping import Array, Float

from mmjax.models.rules import STACK, Rules
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.convolution import Convolution
from mmjax.nn.norm import layer_norm
from mmjax.nn.positions import rope_angles, sincos_1d, sincos_2d
from mmjax.nn.transformer import Stack

# The sharding rules.
RULES: Rules = (*STACK, (r".*tubelets/kernel", (None, None, None, None, "fsdp")))


class VideoEncoder(nn.Module):
    """Maps clips to one feature a tubelet, frame by frame and row by row.

    Each layer attends within the rows and columns of a frame, then over time at each place (Arnab et al. 2021,
    arXiv:2103.15691, model 3): f frames of n patches cost f n (f + n) products, and not (f n) ** 2. One frame has no
    time to look over, and the layers are those of a VisionEncoder. No parameter depends on the sides or the length.

    Attributes:
        patch, time: pixels along each side, and frames, of a tubelet. Where they do not divide the clip, zeros are put
            around.
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
        stem = Convolution(
            self.width,
            window,
            window,
            implementation=self.compute.convolution,
            dtype=self.compute.dtype,
            name="tubelets",
        )
        grid = stem(x)
        b, frames, rows, columns, d = grid.shape
        places = sincos_2d(rows, columns, d)[None] + sincos_1d(frames, d)[:, None]
        tokens = grid.reshape(b, frames, -1, d) + places[None].astype(self.compute.dtype)
        stack = Stack(self.layers, self.heads, self.compute, frames, name="stack")
        angles = rope_angles((rows, columns), d // self.heads)
        return layer_norm(stack(tokens.reshape(b, -1, d), angles=angles), "norm")
