"""Layers that several families share: transformer blocks, the embedding of patches, positions of another size."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mmjax.nn.attention import MultiHeadAttention
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.dense import dense
from mmjax.nn.norm import layer_norm
from mmjax.nn.transformer import POLICIES


def quick_gelu(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """x sigmoid(1.702 x) (Hendrycks & Gimpel 2016, arXiv:1606.08415, section 2)."""
    return x * nn.sigmoid(jnp.asarray(1.702, x.dtype) * x)


# By their names in config.json.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_new": functools.partial(nn.gelu, approximate=True),
    "gelu_pytorch_tanh": functools.partial(nn.gelu, approximate=True),
    "quick_gelu": quick_gelu,
    "relu": nn.relu,
    "silu": nn.silu,
}


@dataclass(frozen=True)
class BlockConfig:
    """A transformer block.

    Attributes:
        mlp_width: hidden units of the MLP.
        activation: see ACTIVATIONS.
        epsilon: of the layer normalizations.
        post_norm: normalize after each residual sum (Vaswani et al. 2017) instead of before each layer.
        gated: multiply the activated units by others, without activation (Shazeer 2020, arXiv:2002.05202).
        layer_scale: scale the output of each layer (Touvron et al. 2021, arXiv:2103.17239, equation 4).
        without_bias: the projections of attention without a bias, among "q", "k", "v" and "out".
        mlp_bias: whether the layers of the MLP have biases.
    """

    heads: int
    mlp_width: int
    activation: str
    epsilon: float
    post_norm: bool = False
    gated: bool = False
    layer_scale: bool = False
    without_bias: tuple[str, ...] = ()
    mlp_bias: bool = True


def gated_mlp(
    x: Float[Array, "b t d"], width: int, activation: str, gated: bool, compute: Compute, bias: bool = True
) -> Float[Array, "b t d"]:
    """An MLP of one hidden layer, optionally gated. Call it inside a module."""
    project = functools.partial(dense, compute=compute, bias=bias)
    hidden = ACTIVATIONS[activation](project(width, name="gate" if gated else "mlp_in")(x))
    if gated:
        hidden = hidden * project(width, name="mlp_in")(x)
    return project(x.shape[-1], name="mlp_out")(hidden)


class Block(nn.Module):
    """Self-attention and an MLP, each with a residual connection and a layer normalization."""

    config: BlockConfig
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        mask: Bool[Array, "#b #h #t t"] | None = None,
        angles: Float[np.ndarray, "t a"] | None = None,
    ) -> Float[Array, "b t d"]:
        """Applies the block; `mask` is True where a query attends to a key, `angles` are those of RoPE."""
        config, compute = self.config, self.compute
        x = compute.partitioner.with_sharding_constraint(x)
        attention = MultiHeadAttention(config.heads, compute, config.without_bias, name="self_attention")
        x = self._residual("self", x, lambda y: attention(y, mask=mask, angles=angles)[0])
        mlp = functools.partial(gated_mlp, width=config.mlp_width, activation=config.activation, gated=config.gated)
        return self._residual("mlp", x, lambda y: mlp(y, compute=compute, bias=config.mlp_bias))

    def _residual(
        self, name: str, x: Float[Array, "b t d"], layer: Callable[[jax.Array], jax.Array]
    ) -> Float[Array, "b t d"]:
        config = self.config
        normalize = functools.partial(layer_norm, name=f"norm_{name}", epsilon=config.epsilon)
        y = layer(x if config.post_norm else normalize(x))
        if config.layer_scale:
            y *= self.param(f"layer_scale_{name}", nn.initializers.ones, x.shape[-1:]).astype(y.dtype)[None, None]
        return normalize(x + y) if config.post_norm else x + y


class Stack(nn.Module):
    """A stack of blocks as one scanned layer; their parameters are stacked along a first axis.

    Attributes:
        block: class of the blocks, made by block(config, compute).
    """

    layers: int
    block: Any
    config: Any
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, x: Float[Array, "b t d"], *context: Any) -> Float[Array, "b t d"]:
        """Applies all blocks, each with the same context."""
        compute, block = self.compute, self.block
        if compute.remat:
            block = nn.remat(block, prevent_cse=False, policy=POLICIES[compute.remat_policy])
        scan = nn.scan(
            lambda block, x, _: (block(x, *context), None),
            variable_axes={"params": 0, "attention_maps": 0},
            split_rngs={"params": True},
            length=self.layers,
            unroll=compute.unroll or self.layers,
        )
        encoded: jax.Array = scan(block(self.config, compute, name="block"), x, None)[0]
        return encoded


class PatchEmbedding(nn.Module):
    """Embeds the patches of an image, with learned positions, after a class token and registers if there are any.

    Attributes:
        size: of the images in pixels, and of their patches, that the positions are of. Images of other sizes get
            positions by bicubic interpolation.
        registers: further tokens, without positions (Darcet et al. 2023, arXiv:2309.16588).
        antialias: interpolate to fewer positions with antialiasing.
    """

    width: int
    size: tuple[int, int]
    bias: bool = True
    class_token: bool = True
    registers: int = 0
    antialias: bool = False
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, image: Float[Array, "b y x c"]) -> Float[Array, "b n d"]:
        b, width, patch = image.shape[0], self.width, (self.size[1],) * 2
        grid = self.size[0] // self.size[1]
        convolution = nn.Conv(
            width, patch, patch, "VALID", use_bias=self.bias, dtype=self.compute.dtype, name="patches"
        )
        x = convolution(image)
        normal = nn.initializers.normal(0.02)
        positions = self.param("positions", normal, (self.class_token + grid * grid, width))
        places = positions[self.class_token :]
        if x.shape[1:3] != (grid, grid):
            rows, columns = (resize_matrix(grid, side, self.antialias) for side in x.shape[1:3])
            places = jnp.einsum("yi,xj,ijd->yxd", rows, columns, places.reshape(grid, grid, width)).reshape(-1, width)
        x = x.reshape(b, -1, width) + places.astype(x.dtype)[None]
        first = []
        if self.class_token:
            first.append(self.param("class_token", normal, (width,))[None] + positions[:1])
        if self.registers:
            first.append(self.param("registers", normal, (self.registers, width)))
        tokens = (jnp.broadcast_to(token.astype(x.dtype)[None], (b, *token.shape)) for token in first)
        return jnp.concatenate([*tokens, x], axis=1)


def resize_matrix(old: int, new: int, antialias: bool) -> Float[np.ndarray, "new old"]:
    """Weights of bicubic interpolation from `old` samples to `new` ones, as in torch.nn.functional.interpolate.

    The kernel is that of Keys 1981 (equation 4) with a = -0.75, and samples beyond the border repeat it; with
    antialiasing a = -0.5, widened where there are fewer samples than before, and weights beyond the border are dropped.
    """
    a, widen = (-0.5, max(old / new, 1.0)) if antialias else (-0.75, 1.0)
    centers = (np.arange(new) + 0.5) * (old / new) - 0.5
    reach = int(np.ceil(2 * widen)) + 1
    places = np.floor(centers)[:, None] + np.arange(-reach, reach + 1)[None]
    x = np.abs(places - centers[:, None]) / widen
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, a * (((x - 5) * x + 8) * x - 4)
    weights = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
    if antialias:
        weights *= (places >= 0) & (places < old)
    matrix = np.zeros((new, old))
    np.add.at(matrix, (np.arange(new)[:, None], np.clip(places, 0, old - 1).astype(int)), weights)
    return (matrix / matrix.sum(axis=1, keepdims=True)).astype(np.float32)
