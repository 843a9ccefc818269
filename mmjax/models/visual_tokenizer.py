"""The visual tokenizer: images or clips to grids of integers and back.

A convolutional encoder, finite scalar quantization, and a decoder of transposed convolutions: the arrangement of Esser
et al. 2021 (arXiv:2012.09841) with the quantization of Mentzer et al. 2023 (arXiv:2309.15505). For clips the
convolutions are causal in time and the first frame is coded on its own (Yu et al. 2023, arXiv:2310.05737), so that an
image is a clip of one frame.
"""

import math
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmjax.config import Config, ModelConfig
from mmjax.config.schema import require, setting
from mmjax.models.checks import check_widths
from mmjax.models.decoder import Decoder
from mmjax.models.rules import Rules
from mmjax.models.spec import ModelSpec
from mmjax.nn import fsq
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.convolution import Convolution
from mmjax.nn.norm import layer_norm
from mmjax.nn.residual import ResidualBlock
from mmjax.types import Batch


@dataclass(frozen=True)
class VisualTokenizerConfig(ModelConfig):
    """The visual tokenizer: images or clips to grids of codes and back.

    Attributes:
        widths: channels of the encoder, finest first; each halves the side, so the grid has size / 2 ** len(widths)
            rows. The decoder goes the same way back.
        time_strides: for clips, how many frames become one at each width, 1 or 2. The first frame is coded on its own,
            and no code sees a later frame than its own; an image is a clip of one frame. Empty: images only.
        blocks: residual blocks at each width.
        levels: of the finite scalar quantization; their product is the number of codes.
        code_noise_prob: fraction of the codes that are replaced in training by codes of other places and examples
            before they are decoded, so that the decoder learns to draw something whole from codes that disagree.
    """

    widths: tuple[int, ...] = setting((64, 128), above=0)
    time_strides: tuple[int, ...] = setting((), at_least=1, at_most=2)
    blocks: int = setting(1, at_least=0)
    levels: tuple[int, ...] = setting((8, 5, 5, 5), at_least=2)
    code_noise_prob: float = setting(0.0, at_least=0, at_most=1)


def _own(config: Config) -> VisualTokenizerConfig:
    assert isinstance(config.model, VisualTokenizerConfig)
    return config.model


def build(config: Config, compute: Compute = DEFAULT) -> "VisualTokenizer":
    return VisualTokenizer(_own(config), compute)


def inputs(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    frames = (config.data.frames,) if config.data.frames > 1 else ()
    return {"image": jax.ShapeDtypeStruct((1, *frames, config.data.size, config.data.size, 3), jnp.float32)}


def levels(config: Config) -> tuple[int, ...]:
    """The levels of the quantization."""
    return _own(config).levels


def prepare(config: Config, batch: Batch, key: jax.Array | None) -> dict[str, Any]:
    """The image and, in training, which codes are replaced."""
    noise = _own(config).code_noise_prob
    corrupt = {"corrupt": (key, noise)} if key is not None and noise > 0 else {}
    return {"image": batch["image"], **corrupt}


def check(config: Config) -> None:
    model = _own(config)
    check_widths("widths", model.widths, config.data.size)
    strides = model.time_strides
    require(
        not strides or len(strides) == len(model.widths),
        f"model.time_strides: needs 1 or 2 for each of the {len(model.widths)} widths, or nothing, not {list(strides)}",
    )
    require(
        bool(strides) or config.data.frames == 1,
        f"model.time_strides: clips of {config.data.frames} frames need one for each width, as in "
        f"{(1,) * (len(model.widths) - 1) + (2,)}",
    )
    require(len(model.levels) > 0, "model.levels: needs at least one")
    require(
        math.prod(model.levels) <= 2**24,
        f"model.levels: {math.prod(model.levels):,} codes are more than 2 ** 24, as many as can be told apart",
    )


def grid(config: Config) -> tuple[int, ...]:
    """The shape of the grid of codes of one example: (rows, columns), or (frames, rows, columns) for clips."""
    rows = config.data.size // 2 ** len(_own(config).widths)
    strides = _own(config).time_strides
    return (1 + math.ceil((config.data.frames - 1) / math.prod(strides)), rows, rows) if strides else (rows, rows)


def sharding_rules(config: Config) -> Rules:
    strides = _own(config).time_strides
    window: tuple[None, ...] = (None, None, None) if strides else (None, None)
    ups = [(rf"decoder/upsample_{i}/kernel", 3 if s == 2 else 2) for i, s in enumerate(reversed(strides))]
    return (
        *([(r".*/block_\d+_\d+/(first|second)/kernel", (*window, "fsdp", "model"))] if _own(config).blocks else []),
        (r"encoder/down_0/kernel", (*window, None, "model")),  # its input is pixels
        *([(r"encoder/down_\d+/kernel", (*window, "fsdp", "model"))] if len(_own(config).widths) > 1 else []),
        *[(name, (*(None,) * rank, "fsdp", "model")) for name, rank in ups],
        *([] if ups else [(r"decoder/upsample_\d+/kernel", (*window, "fsdp", "model"))]),
        (r"decoder/pixels/kernel", (*window, "fsdp", None)),
        (r"to_codes/kernel", ("fsdp", None)),
        (r"from_codes/kernel", (None, "model")),
        (r".*(bias|scale)", (None,)),
    )


class Encoder(nn.Module):
    """Halves the sides once for each width, with residual blocks after each; see config.VisualTokenizer."""

    model: VisualTokenizerConfig
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, x: Float[Array, "b *pixels c"]) -> Float[Array, "b *grid d"]:
        m = self.model
        causal = bool(m.time_strides)
        compute = self.compute
        convolve: dict[str, Any] = {"causal": causal, "implementation": compute.convolution, "dtype": compute.dtype}
        for i, width in enumerate(m.widths):
            window: tuple[int, ...] = (4, 4)
            stride: tuple[int, ...] = (2, 2)
            if causal:
                time = m.time_strides[i]
                window, stride = (2 * time if time > 1 else 1, 4, 4), (time, 2, 2)
            x = compute.partitioner.with_sharding_constraint(
                Convolution(width, window, stride, **convolve, name=f"down_{i}")(x)
            )
            for j in range(m.blocks):
                x = ResidualBlock(**convolve, partitioner=compute.partitioner, name=f"block_{i}_{j}")(x)
        return layer_norm(x, "norm")


class VisualTokenizer(nn.Module):
    """Images [b, y, x, 3] or clips [b, f, y, x, 3] to grids of codes, and back.

    Sides become 2 ** len(widths) times smaller. 1 + k frames become 1 + k / s, s the product of the time strides; a
    clip that does not fit is coded with its last frame repeated.
    """

    model: VisualTokenizerConfig
    compute: Compute = DEFAULT

    def setup(self) -> None:
        m, dtype = self.model, self.compute.dtype
        self.encoder = Encoder(m, self.compute)
        self.to_codes = nn.Dense(len(m.levels), dtype=dtype)
        self.from_codes = nn.Dense(m.widths[-1], dtype=dtype)
        widths = (*m.widths[-2::-1], m.widths[0])
        self.decoder = Decoder(widths, 3, m.blocks, m.time_strides[::-1], self.compute)

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
        x = image.astype(self.compute.dtype)
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
