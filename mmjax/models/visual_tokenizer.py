"""The visual tokenizer: pictures to grids of integers and back.

A convolutional encoder, finite scalar quantization, and a decoder of transposed convolutions: the arrangement of Esser
et al. 2021 (arXiv:2012.09841) with the quantization of Mentzer et al. 2023 (arXiv:2309.15505).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmjax.config import Config, fields
from mmjax.models.decoder import Decoder
from mmjax.nn import fsq
from mmjax.nn.convolution import Convolution
from mmjax.nn.norm import layer_norm
from mmjax.nn.residual import ResidualBlock

_KERNELS: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"encoder/down_0/kernel", (None, None, None, "model")),  # its input is pixels
    (r"(encoder/down|decoder/upsample)_\d+/kernel", (None, None, "fsdp", "model")),
    (r"decoder/pixels/kernel", (None, None, "fsdp", None)),
    (r"to_codes/kernel", ("fsdp", None)),
    (r"from_codes/kernel", (None, "model")),
    (r".*(bias|scale)", (None,)),
)
_BLOCKS = ((r".*/block_\d+_\d+/(first|second)/kernel", (None, None, "fsdp", "model")),)


def build(config: Config) -> "VisualTokenizer":
    assert isinstance(config.model, fields.VisualTokenizer)
    return VisualTokenizer(config.model)


def inputs(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    return {"image": jax.ShapeDtypeStruct((1, config.data.size, config.data.size, 3), jnp.float32)}


def sharding_rules(config: Config) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
    assert isinstance(config.model, fields.VisualTokenizer)
    return (_BLOCKS if config.model.blocks else ()) + _KERNELS


class Encoder(nn.Module):
    """Halves the sides once for each width, with residual blocks after each; see config.VisualTokenizer."""

    model: fields.VisualTokenizer

    @nn.compact
    def __call__(self, x: Float[Array, "b *pixels c"]) -> Float[Array, "b *grid d"]:
        dtype = jnp.dtype(self.model.dtype)
        for i, width in enumerate(self.model.widths):
            x = Convolution(width, 4, 2, dtype, name=f"down_{i}")(x)
            for j in range(self.model.blocks):
                x = ResidualBlock(dtype, name=f"block_{i}_{j}")(x)
        return layer_norm(x, "norm")


class VisualTokenizer(nn.Module):
    """Pictures [b, y, x, 3] to grids of codes with 2 ** len(widths) times smaller sides, and back."""

    model: fields.VisualTokenizer

    def setup(self) -> None:
        m, dtype = self.model, jnp.dtype(self.model.dtype)
        self.encoder = Encoder(m)
        self.to_codes = nn.Dense(len(m.levels), dtype=dtype)
        self.from_codes = nn.Dense(m.widths[-1], dtype=dtype)
        self.decoder = Decoder((*m.widths[-2::-1], m.widths[0]), 3, m.blocks, m.convolution, dtype)

    def __call__(self, image: Float[Array, "b y x c"]) -> dict[str, Any]:
        """The codes of pictures, -1 to 1, and the pictures that the codes give back.

        Returns:
            {"image": float32 [b, y, x, 3], "codes": int32 [b, n]}, the codes read row by row.
        """
        quantized = self._quantized(image)
        codes = fsq.to_indices(quantized, self.model.levels)
        return {"image": self._decoded(quantized), "codes": codes.reshape(codes.shape[0], -1)}

    def encode(self, image: Float[Array, "b y x c"]) -> Int[Array, "b rows columns"]:
        """The grid of codes of each picture, 0 to the product of the levels."""
        return fsq.to_indices(self._quantized(image), self.model.levels)

    def decode(self, codes: Int[Array, "b rows columns"]) -> Float[Array, "b y x c"]:
        """Pictures from grids of codes, about -1 to 1."""
        return self._decoded(fsq.to_codes(codes, self.model.levels))

    def _quantized(self, image: Float[Array, "b y x c"]) -> Float[Array, "b rows columns l"]:
        z = self.to_codes(self.encoder(image.astype(jnp.dtype(self.model.dtype))))
        return fsq.quantize(z.astype(jnp.float32), self.model.levels)

    def _decoded(self, quantized: Float[Array, "b rows columns l"]) -> Float[Array, "b y x c"]:
        return self.decoder(self.from_codes(quantized))
