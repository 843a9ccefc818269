"""Vision encoder: a vision transformer over square patches (Dosovitskiy et al. 2021)."""

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Float

from mmjax.nn.convolution import Convolution
from mmjax.nn.layout import ANYWHERE, Layout
from mmjax.nn.norm import layer_norm
from mmjax.nn.positions import grid_positions
from mmjax.nn.transformer import Block
from mmjax.types import FLOAT32


class VisionEncoder(nn.Module):
    """Maps a picture to one feature a patch, row by row.

    Attributes:
        patch: side of a patch in pixels; must divide both sides of the picture.
        width, layers, heads: of the transformer.
    """

    patch: int
    width: int
    layers: int
    heads: int
    dtype: np.dtype = FLOAT32
    kernel: str = "xla"
    layout: Layout = ANYWHERE

    @nn.compact
    def __call__(self, image: Float[Array, "b y x c"]) -> Float[Array, "b n d"]:
        patches = Convolution(self.width, self.patch, self.patch, dtype=self.dtype, name="patches")(image)
        b, rows, columns, d = patches.shape
        x = patches.reshape(b, rows * columns, d) + grid_positions(rows, columns, d)[None].astype(self.dtype)
        for i in range(self.layers):
            x = Block(self.heads, self.dtype, self.kernel, self.layout, name=f"block_{i}")(x)
        return layer_norm(x, "norm")
