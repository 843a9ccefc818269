"""Video encoder: tubelet embeddings and a transformer with attention factorized over space and time."""

from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from mmjax.models.rules import STACK, Rules
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.convolution import Convolution
from mmjax.nn.norm import layer_norm
from mmjax.nn.positions import rope_angles, sincos_1d, sincos_2d
from mmjax.nn.transformer import Stack

RULES: Rules = (*STACK, (r".*tubelets/kernel", (None, None, None, None, "fsdp")))


class VideoEncoder(nn.Module):
    """Encodes clips into one feature per tubelet, in row-major order.

    Each layer attends within each frame, then over time at each position (Arnab et al. 2021, arXiv:2103.15691, model
    3): f frames of n patches cost f n (f + n) products instead of (f n) ** 2. For one frame the layers are those of a
    VisionEncoder. No parameter depends on the size or length of clips.

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
        convolve: dict[str, Any] = {"implementation": self.compute.convolution, "dtype": self.compute.dtype}
        grid = Convolution(self.width, window, window, **convolve, name="tubelets")(x)
        b, frames, rows, columns, d = grid.shape
        places = sincos_2d(rows, columns, d)[None] + sincos_1d(frames, d)[:, None]
        tokens = grid.reshape(b, frames, -1, d) + places[None].astype(self.compute.dtype)
        stack = Stack(self.layers, self.heads, self.compute, frames, name="stack")
        angles = rope_angles((rows, columns), d // self.heads)
        return layer_norm(stack(tokens.reshape(b, -1, d), angles=angles), "norm")
