"""Visual tokenizer: encodes images or clips into grids of discrete codes and decodes them.

A convolutional autoencoder (Esser et al. 2021, arXiv:2012.09841) with finite scalar quantization (Mentzer et al. 2023,
arXiv:2309.15505). For clips the convolutions are causal in time and the first frame is encoded alone (Yu et al. 2023,
arXiv:2310.05737), so that an image is a clip of one frame.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmjax.config import Config, ModelConfig
from mmjax.config.schema import require, setting
from mmjax.models.rules import Rules
from mmjax.models.spec import ModelSpec, check_widths
from mmjax.nn import fsq
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.convolution import Convolution, ResidualBlock, TransposedConvolution
from mmjax.nn.dense import dense
from mmjax.nn.norm import layer_norm
from mmjax.types import Batch


@dataclass(frozen=True)
class VisualTokenizerConfig(ModelConfig):
    """Config of the visual tokenizer.

    Attributes:
        widths: channels of the encoder from the finest on; each halves the side, so the grid has
            size / 2 ** len(widths) rows. The decoder mirrors them.
        time_strides: for clips, stride over time at each width, 1 or 2. Empty: images only.
        blocks: residual blocks at each width.
        levels: levels of the finite scalar quantization; their product is the number of codes.
        code_noise_prob: fraction of the codes that training replaces, before decoding, by codes of other positions and
            examples: the decoder becomes robust to the inconsistent codes of a generator.
    """

    widths: tuple[int, ...] = setting((64, 128), above=0, at_most=16_384)
    time_strides: tuple[int, ...] = setting((), at_least=1, at_most=2)
    blocks: int = setting(1, at_least=0, at_most=100)
    levels: tuple[int, ...] = setting((8, 5, 5, 5), at_least=2, at_most=2**24)
    code_noise_prob: float = setting(0.0, at_least=0, at_most=1)


def _model(config: Config) -> VisualTokenizerConfig:
    assert isinstance(config.model, VisualTokenizerConfig)
    return config.model


def build(config: Config, compute: Compute = DEFAULT) -> "VisualTokenizer":
    return VisualTokenizer(_model(config), compute)


def inputs(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    frames = (config.data.frames,) if config.data.frames > 1 else ()
    return {"image": jax.ShapeDtypeStruct((1, *frames, config.data.size, config.data.size, 3), jnp.float32)}


def levels(config: Config) -> tuple[int, ...]:
    """Levels of the quantization."""
    return _model(config).levels


def prepare(config: Config, batch: Batch, key: jax.Array | None) -> dict[str, Any]:
    """The image and, in training, the code noise."""
    noise = _model(config).code_noise_prob
    corrupt = {"corrupt": (key, noise)} if key is not None and noise > 0 else {}
    return {"image": batch["image"], **corrupt}


def check(config: Config) -> None:
    model = _model(config)
    check_widths("widths", model.widths, config.data)
    strides = model.time_strides
    require(
        not strides or len(strides) == len(model.widths),
        f"model.time_strides: needs 1 or 2 for each of the {len(model.widths)} widths, or none, not {list(strides)}",
    )
    require(
        bool(strides) or config.data.frames == 1,
        f"model.time_strides: clips of {config.data.frames} frames need one for each width, as in "
        f"{(1,) * (len(model.widths) - 1) + (2,)}",
    )
    require(len(model.levels) > 0, "model.levels: needs at least one")
    require(
        math.prod(model.levels) <= 2**24,
        f"model.levels: {math.prod(model.levels):,} codes exceed 2 ** 24, the integers that float32 represents",
    )


def grid(config: Config) -> tuple[int, ...]:
    """Shape of the grid of codes of one example: (rows, columns), or (frames, rows, columns) for clips."""
    rows = config.data.size // 2 ** len(_model(config).widths)
    strides = _model(config).time_strides
    return (1 + math.ceil((config.data.frames - 1) / math.prod(strides)), rows, rows) if strides else (rows, rows)


def as_in_data(config: Config, images: Any) -> Any:
    """Decoded images or clips with the frames of the data; tokenizers of clips decode an image to a clip."""
    if images.ndim == 4:
        return images
    return images[:, : config.data.frames] if config.data.frames > 1 else images[:, 0]


def sharding_rules(config: Config) -> Rules:
    model = _model(config)
    window = (None,) * (3 if model.time_strides else 2)
    inner = (*window, "fsdp", "model")
    # Without a stride over time, each frame is decoded by itself.
    ranks = [3 if stride == 2 else 2 for stride in model.time_strides[::-1]] or [2] * len(model.widths)
    return (
        *([(r".*/block_\d+_\d+/(first|second)/kernel", inner)] if model.blocks else []),
        (r"encoder/down_0/kernel", (*window, None, "model")),  # its input is pixels
        *([(r"encoder/down_\d+/kernel", inner)] if len(model.widths) > 1 else []),
        *((rf"decoder/upsample_{i}/kernel", (*(None,) * rank, "fsdp", "model")) for i, rank in enumerate(ranks)),
        (r"decoder/pixels/kernel", (*window, "fsdp", None)),
        (r"to_codes/kernel", ("fsdp", None)),
        (r"from_codes/kernel", (None, "model")),
        (r".*(bias|scale)", (None,)),
    )


class Encoder(nn.Module):
    """Strided convolutions, one per width, with residual blocks after each; see VisualTokenizerConfig."""

    model: VisualTokenizerConfig
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, x: Float[Array, "b *pixels c"]) -> Float[Array, "b *grid d"]:
        m, compute = self.model, self.compute
        causal = bool(m.time_strides)
        for i, width in enumerate(m.widths):
            time = m.time_strides[i : i + 1]  # (): images
            window, stride = (*(4 if s == 2 else 1 for s in time), 4, 4), (*time, 2, 2)
            x = Convolution(width, window, stride, causal, compute=compute, name=f"down_{i}")(x)
            x = compute.partitioner.with_sharding_constraint(x)
            for j in range(m.blocks):
                x = ResidualBlock(causal, compute, name=f"block_{i}_{j}")(x)
        return layer_norm(x, "norm")


class Decoder(nn.Module):
    """Transposed convolutions of stride 2, one per width, after optional residual blocks.

    [b, y, x, d] gives an image, [b, f, y, x, d] a clip; convolutions over time are causal.

    Attributes:
        widths: channels after each transposed convolution.
        blocks: residual blocks before each transposed convolution.
        time_strides: for clips, how 1 + k frames change at each width: unchanged (1) or to 1 + 2 k (2).
    """

    widths: Sequence[int]
    blocks: int = 0
    time_strides: Sequence[int] = ()
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, x: Float[Array, "b *grid d"]) -> Float[Array, "b *pixels 3"]:
        causal, compute = bool(self.time_strides), self.compute
        for i, width in enumerate(self.widths):
            x = compute.partitioner.with_sharding_constraint(x)
            for j in range(self.blocks):
                x = ResidualBlock(causal, compute, name=f"block_{i}_{j}")(x)
            if causal and self.time_strides[i] == 1:  # each frame by itself
                frames = x.shape[:2]
                x = TransposedConvolution(width, compute=compute, name=f"upsample_{i}")(x.reshape(-1, *x.shape[2:]))
                x = x.reshape(*frames, *x.shape[1:])
            else:
                x = TransposedConvolution(width, causal, compute, name=f"upsample_{i}")(x)
            x = nn.gelu(layer_norm(x, f"norm_{i}"))
        window = (1, 3, 3) if causal else 3
        return Convolution(3, window, causal=causal, compute=compute, name="pixels")(x).astype(jnp.float32)


class VisualTokenizer(nn.Module):
    """Encodes images [b, y, x, 3] or clips [b, f, y, x, 3] into grids of codes and decodes them.

    Sides shrink by 2 ** len(widths). 1 + k frames become 1 + k / s, s the product of the time strides; clips are padded
    by repeating the last frame.
    """

    model: VisualTokenizerConfig
    compute: Compute = DEFAULT

    def setup(self) -> None:
        m = self.model
        self.encoder = Encoder(m, self.compute)
        self.to_codes = dense(len(m.levels), self.compute)
        self.from_codes = dense(m.widths[-1], self.compute)
        widths = (*m.widths[-2::-1], m.widths[0])
        self.decoder = Decoder(widths, m.blocks, m.time_strides[::-1], self.compute)

    def __call__(
        self, image: Float[Array, "b *pixels c"], corrupt: tuple[jax.Array, float] | None = None
    ) -> dict[str, Any]:
        """Encodes and reconstructs images or clips from -1 to 1.

        Args:
            corrupt: a random key and the fraction of the codes to replace; see VisualTokenizerConfig.code_noise_prob.

        Returns:
            {"image": float32 as the input, "codes": int32 [b, n]}, the codes in row-major order.
        """
        quantized = self._quantize(image)
        codes = fsq.to_indices(quantized, self.model.levels)
        if corrupt is not None:
            quantized = _replace_codes(quantized, *corrupt)
        decoded = self.decoder(self.from_codes(quantized))
        if decoded.ndim == 5:
            decoded = decoded[:, : image.shape[1]] if image.ndim == 5 else decoded[:, 0]
        return {"image": decoded, "codes": codes.reshape(codes.shape[0], -1)}

    def encode(self, image: Float[Array, "b *pixels c"]) -> Int[Array, "b *grid"]:
        """The grid of codes of each image or clip, from 0 to the product of the levels."""
        return fsq.to_indices(self._quantize(image), self.model.levels)

    def decode(self, codes: Int[Array, "b *grid"]) -> Float[Array, "b *pixels c"]:
        """Images, about -1 to 1, of grids of codes; clips of 1 + k s frames of k + 1 grids."""
        return self.decoder(self.from_codes(fsq.to_codes(codes, self.model.levels)))

    def _quantize(self, image: Float[Array, "b *pixels c"]) -> Float[Array, "b *grid l"]:
        x = image.astype(self.compute.dtype)
        if self.model.time_strides:
            x = x[:, None] if x.ndim == 4 else x
            missing = -(x.shape[1] - 1) % math.prod(self.model.time_strides)
            x = jnp.concatenate([x, jnp.repeat(x[:, -1:], missing, axis=1)], axis=1)
        z = self.to_codes(self.encoder(x))
        return fsq.quantize(z.astype(jnp.float32), self.model.levels)


def _replace_codes(quantized: Float[Array, "b *grid l"], key: jax.Array, prob: float) -> Float[Array, "b *grid l"]:
    mask_key, source_key = jax.random.split(key)
    flat = quantized.reshape(-1, quantized.shape[-1])
    others = flat[jax.random.randint(source_key, flat.shape[:1], 0, flat.shape[0])].reshape(quantized.shape)
    replaced = jax.random.uniform(mask_key, quantized.shape[:-1]) < jnp.float32(prob)
    return jnp.where(replaced[..., None], jax.lax.stop_gradient(others), quantized)


MODEL = ModelSpec(
    config=VisualTokenizerConfig,
    build=build,
    inputs=inputs,
    sharding_rules=sharding_rules,
    outputs=lambda config: ("image", "codes"),
    check=check,
    prepare=prepare,
    predictions=lambda config: ("image", "codes"),
    abilities=lambda config: frozenset({"encode"}),
)
