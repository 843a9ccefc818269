"""Residual network (He et al. 2015, arXiv:1512.03385), ResNet-50 by default."""

from collections.abc import Sequence

import flax.linen as nn
from jaxtyping import Array, Bool, Float

from mmjax.models.rules import Rules
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.convolution import Convolution
from mmjax.nn.dense import dense
from mmjax.nn.norm import BatchNorm, layer_norm
from mmjax.nn.positions import sincos_grid

STRIDE = 32  # pixels between positions of the last feature map
RULES: Rules = (
    (r".*stem/kernel", (None, None, None, "fsdp")),
    (r".*stage_\d+_\d+/(reduce|spatial|expand|first|second|shortcut)/kernel", (None, None, "fsdp", "model")),
    (r".*project/kernel", ("fsdp", "model")),
    (r".*(mean|variance)", (None,)),
)


class ResNet(nn.Module):
    """Encodes images into the features of the last feature map, in row-major order.

    They are projected to the width, with positions added, and normalized, like those of a vision transformer; for the
    other attributes see ResNetTrunk.
    """

    width: int
    blocks: Sequence[int] = (3, 4, 6, 3)
    channels: int = 64
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(
        self, x: Float[Array, "b y x c"], rows: Bool[Array, "b"] | None = None, training: bool = False
    ) -> Float[Array, "b n d"]:
        """The features; see nn/norm.BatchNorm for `rows` and `training`."""
        grid = ResNetTrunk(self.blocks, self.channels, self.compute, name="trunk")(x, rows, training)
        b, high, wide, c = grid.shape
        projected = dense(self.width, self.compute, "project")(grid.reshape(b, high * wide, c))
        return layer_norm(projected + sincos_grid((high, wide), self.width)[None].astype(self.compute.dtype), "norm")


class ResNetTrunk(nn.Module):
    """Images to their last feature map, before pooling.

    The strides are in the 3 x 3 convolutions (ResNet v1.5). The scale of each block's last normalization starts at
    0, so that blocks start as the identity (Goyal et al. 2017, arXiv:1706.02677).

    Attributes:
        blocks: of each stage; all stages but the first halve the sides.
        channels: of the stem; the stages have 4, 8, 16 ... times as many, with basic blocks 1, 2, 4 ... times.
        basic: blocks of two 3 x 3 convolutions, as in ResNet-18 and ResNet-34, not bottlenecks.
    """

    blocks: Sequence[int] = (3, 4, 6, 3)
    channels: int = 64
    compute: Compute = DEFAULT
    basic: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "b y x c"], rows: Bool[Array, "b"] | None = None, training: bool = False
    ) -> Float[Array, "b high wide d"]:
        compute = self.compute
        x = Convolution(self.channels, 7, 2, use_bias=False, compute=compute, name="stem")(x)
        x = nn.relu(BatchNorm(name="stem_norm")(compute.partitioner.with_sharding_constraint(x), rows, training))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for stage, count in enumerate(self.blocks):
            for i in range(count):
                stride = 2 if stage and not i else 1
                block = _Block(self.channels * 2**stage, stride, self.basic, compute, name=f"stage_{stage}_{i}")
                x = block(x, rows, training)
        return x


class _Block(nn.Module):
    """Residual block of 1 x 1, 3 x 3 and 1 x 1 convolutions, or a basic one of two 3 x 3 convolutions.

    The shortcut is projected where its shape changes.
    """

    channels: int
    stride: int
    basic: bool
    compute: Compute

    @nn.compact
    def __call__(
        self, x: Float[Array, "b y x c"], rows: Bool[Array, "b"] | None, training: bool
    ) -> Float[Array, "b high wide d"]:
        def convolve(
            x: Float[Array, "b y x c"], name: str, features: int, window: int, stride: int = 1, scale_init: float = 1.0
        ) -> Float[Array, "b high wide d"]:
            x = Convolution(features, window, stride, use_bias=False, compute=self.compute, name=name)(x)
            x = self.compute.partitioner.with_sharding_constraint(x)  # see convolution.ResidualBlock
            return BatchNorm(scale_init, name=f"{name}_norm")(x, rows, training)

        if self.basic:
            features = self.channels
            y = nn.relu(convolve(x, "first", features, 3, self.stride))
            y = convolve(y, "second", features, 3, scale_init=0.0)
        else:
            features = 4 * self.channels
            y = nn.relu(convolve(x, "reduce", self.channels, 1))
            y = nn.relu(convolve(y, "spatial", self.channels, 3, self.stride))
            y = convolve(y, "expand", features, 1, scale_init=0.0)
        if x.shape[-1] != features or self.stride > 1:
            x = convolve(x, "shortcut", features, 1, self.stride)
        return nn.relu(x + y)
