"""The visual tokenizer: images or clips to grids of integers and back.

A convolutional encoder, finite scalar quantization, and a decoder of transposed convolutions: the arrangement of Esser
et al. 2021 (arXiv:2012.09841) with the quantization of Mentzer et al. 2023 (arXiv:2309.15505). For clips the
convolutions are causal in time and the first frame is coded on its own (Yu et al. 2023, arXiv:2310.05737), so that an
image is a clip of one frame.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmjax.config import Config, model_fields
from mmjax.models.decoder import Decoder
from mmjax.nn import fsq
from mmjax.nn.convolution import Convolution
from mmjax.nn.norm import layer_norm
from mmjax.nn.partitioner import UNSHARDED, Partitioner
from mmjax.nn.residual import ResidualBlock


def build(config: Config, partitioner: Partitioner = UNSHARDED) -> "VisualTokenizer":
    assert isinstance(config.model, model_fields.VisualTokenizerConfig)
    return VisualTokenizer(config.model, partitioner)


def inputs(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    frames = (config.data.frames,) if config.data.frames > 1 else ()
    return {"image": jax.ShapeDtypeStruct((1, *frames, config.data.size, config.data.size, 3), jnp.float32)}


def grid(config: Config) -> tuple[int, ...]:
    """The shape of the grid of codes of one example: (rows, columns), or (frames, rows, columns) for clips."""
    assert isinstance(config.model, model_fields.VisualTokenizerConfig)
    rows = config.data.size // 2 ** len(config.model.widths)
    strides = config.model.time_strides
    return (1 + math.ceil((config.data.frames - 1) / math.prod(strides)), rows, rows) if strides else (rows, rows)


def sharding_rules(config: Config) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
    assert isinstance(config.model, model_fields.VisualTokenizerConfig)
    strides = config.model.time_strides
    window: tuple[None, ...] = (None, None, None) if strides else (None, None)
    ups = [(rf"decoder/upsample_{i}/kernel", 3 if s == 2 else 2) for i, s in enumerate(reversed(strides))]
    return (
        *([(r".*/block_\d+_\d+/(first|second)/kernel", (*window, "fsdp", "model"))] if config.model.blocks else []),
        (r"encoder/down_0/kernel", (*window, None, "model")),  # its input is pixels
        *([(r"encoder/down_\d+/kernel", (*window, "fsdp", "model"))] if len(config.model.widths) > 1 else []),
        *[(name, (*(None,) * rank, "fsdp", "model")) for name, rank in ups],
        *([] if ups else [(r"decoder/upsample_\d+/kernel", (*window, "fsdp", "model"))]),
        (r"decoder/pixels/kernel", (*window, "fsdp", None)),
        (r"to_codes/kernel", ("fsdp", None)),
        (r"from_codes/kernel", (None, "model")),
        (r".*(bias|scale)", (None,)),
    )


class Encoder(nn.Module):
    """Halves the sides once for each width, with residual blocks after each; see config.VisualTokenizer."""

    model: model_fields.VisualTokenizerConfig
    partitioner: Partitioner = UNSHARDED

    @nn.compact
    def __call__(self, x: Float[Array, "b *pixels c"]) -> Float[Array, "b *grid d"]:
        m = self.model
        causal = bool(m.time_strides)
        convolve: dict[str, Any] = {"causal": causal, "implementation": m.convolution, "dtype": jnp.dtype(m.dtype)}
        for i, width in enumerate(m.widths):
            window: tuple[int, ...] = (4, 4)
            stride: tuple[int, ...] = (2, 2)
            if causal:
                time = m.time_strides[i]
                window, stride = (2 * time if time > 1 else 1, 4, 4), (time, 2, 2)
            x = self.partitioner.with_sharding_constraint(
                Convolution(width, window, stride, **convolve, name=f"down_{i}")(x)
            )
            for j in range(m.blocks):
                x = ResidualBlock(**convolve, partitioner=self.partitioner, name=f"block_{i}_{j}")(x)
        return layer_norm(x, "norm")


class VisualTokenizer(nn.Module):
    """Images [b, y, x, 3] or clips [b, f, y, x, 3] to grids of codes, and back.

    Sides become 2 ** len(widths) times smaller. 1 + k frames become 1 + k / s, s the product of the time strides; a
    clip that does not fit is coded with its last frame repeated.
    """

    model: model_fields.VisualTokenizerConfig
    partitioner: Partitioner = UNSHARDED

    def setup(self) -> None:
        m, dtype = self.model, jnp.dtype(self.model.dtype)
        self.encoder = Encoder(m, self.partitioner)
        self.to_codes = nn.Dense(len(m.levels), dtype=dtype)
        self.from_codes = nn.Dense(m.widths[-1], dtype=dtype)
        widths = (*m.widths[-2::-1], m.widths[0])
        self.decoder = Decoder(widths, 3, m.blocks, m.convolution, m.time_strides[::-1], dtype, self.partitioner)

    def __call__(
        self, image: Float[Array, "b *pixels c"], corrupt: tuple[jax.Array, float] | None = None
    ) -> dict[str, Any]:
        """The codes of images or clips, -1 to 1, and what the codes give back.

        Args:
            corrupt: a random key, and a share of the codes that are replaced, before they are decoded, by codes of
                other places and examples. The decoder learns from it to draw something whole from codes that do not
                quite agree, as a generator's do.

        Returns:
            {"image": float32 as the input, "codes": int32 [b, n]}, the codes read frame by frame, row by row.
        """
        quantized = self._quantized(image)
        codes = fsq.to_indices(quantized, self.model.levels)
        again = self._decoded(quantized if corrupt is None else _corrupted(quantized, *corrupt))
        if again.ndim == 5:
            again = again[:, : image.shape[1]] if image.ndim == 5 else again[:, 0]
        return {"image": again, "codes": codes.reshape(codes.shape[0], -1)}

    def encode(self, image: Float[Array, "b *pixels c"]) -> Int[Array, "b *grid"]:
        """The grid of codes of each image or clip, 0 to the product of the levels."""
        return fsq.to_indices(self._quantized(image), self.model.levels)

    def decode(self, codes: Int[Array, "b *grid"]) -> Float[Array, "b *pixels c"]:
        """Images from grids of codes, about -1 to 1; clips of 1 + k s frames from k + 1 grids."""
        return self._decoded(fsq.to_codes(codes, self.model.levels))

    def _quantized(self, image: Float[Array, "b *pixels c"]) -> Float[Array, "b *grid l"]:
        x = image.astype(jnp.dtype(self.model.dtype))
        if self.model.time_strides:
            x = x[:, None] if x.ndim == 4 else x
            missing = -(x.shape[1] - 1) % math.prod(self.model.time_strides)
            x = jnp.concatenate([x, jnp.repeat(x[:, -1:], missing, axis=1)], axis=1)
        z = self.to_codes(self.encoder(x))
        return fsq.quantize(z.astype(jnp.float32), self.model.levels)

    def _decoded(self, quantized: Float[Array, "b *grid l"]) -> Float[Array, "b *pixels c"]:
        return self.decoder(self.from_codes(quantized))


def _corrupted(quantized: Float[Array, "b *grid l"], key: jax.Array, share: float) -> Float[Array, "b *grid l"]:
    which, whose = jax.random.split(key)
    flat = quantized.reshape(-1, quantized.shape[-1])
    others = flat[jax.random.randint(whose, flat.shape[:1], 0, flat.shape[0])].reshape(quantized.shape)
    replaced = jax.random.uniform(which, quantized.shape[:-1]) < jnp.float32(share)
    return jnp.where(replaced[..., None], jax.lax.stop_gradient(others), quantized)
