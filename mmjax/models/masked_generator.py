"""The masked generator: a transformer that fills in visual tokens, looking at the text and at the tokens it has.

After MaskGIT (Chang et al. 2022, arXiv:2202.04200) and Muse (Chang et al. 2023, arXiv:2301.00704). Generating,
inpainting, the next frames: all are choices of which tokens are masked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mmjax.config import Config, fields
from mmjax.models import visual_tokenizer
from mmjax.models.text_encoder import TextEncoder
from mmjax.nn import fsq
from mmjax.nn.positions import sine_positions
from mmjax.nn.residual import ResidualBlock
from mmjax.nn.transformer import Stack
from mmjax.types import FLOAT32, Params

_RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"layers/.*attention/(q|k|v)/kernel", (None, "fsdp", "model", None)),
    (r"layers/.*attention/(q|k|v)/bias", (None, "model", None)),
    (r"layers/.*attention/out/kernel", (None, "model", None, "fsdp")),
    (r"layers/.*mlp_in/kernel", (None, "fsdp", "model")),
    (r"layers/.*mlp_in/bias", (None, "model")),
    (r"layers/.*mlp_out/kernel", (None, "model", "fsdp")),
    (r"layers/.*(bias|scale)", (None, None)),
    (r"text/.*attention/(q|k|v)/kernel", ("fsdp", "model", None)),
    (r"text/.*attention/(q|k|v)/bias", ("model", None)),
    (r"text/.*attention/out/kernel", ("model", None, "fsdp")),
    (r"text/.*mlp_in/kernel", ("fsdp", "model")),
    (r"text/.*mlp_in/bias", ("model",)),
    (r"text/.*mlp_out/kernel", ("model", "fsdp")),
    (r"text/table", ("model", "fsdp")),
    (r"codes/table", ("model", "fsdp")),
    (r"codes/digit_\d+", (None, "fsdp")),
    (r"position_\d+/kernel", (None, "fsdp")),
    (r"head/kernel", ("fsdp", "model")),
    (r"mask", ("fsdp",)),
    (r".*(bias|scale)", (None,)),
)


def build(config: Config) -> "MaskedGenerator":
    assert isinstance(config.model, fields.MaskedGenerator)
    assert config.tokenizer is not None and isinstance(config.tokenizer.model, fields.VisualTokenizer)
    grid = visual_tokenizer.grid(config.tokenizer)
    return MaskedGenerator(config.model, config.text.vocabulary, config.tokenizer.model.levels, grid)


def inputs(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    assert config.tokenizer is not None
    grid = visual_tokenizer.grid(config.tokenizer)
    return {
        "text": jax.ShapeDtypeStruct((1, config.text.length), jnp.int32),
        "codes": jax.ShapeDtypeStruct((1, *grid), jnp.int32),
        "masked": jax.ShapeDtypeStruct((1, *grid), jnp.bool_),
    }


def sharding_rules(config: Config) -> tuple[tuple[str, tuple[str | None, ...]], ...]:
    assert isinstance(config.model, fields.MaskedGenerator) and config.tokenizer is not None
    window = (None,) * len(visual_tokenizer.grid(config.tokenizer))
    local = ((r"local_\d+/(first|second)/kernel", (*window, "fsdp", "model")),)
    return (local if config.model.local_blocks else ()) + _RULES


@dataclass(frozen=True)
class Functions:
    """What sampling needs of a generator and its visual tokenizer.

    Attributes:
        context: (params, text) -> features and their mask.
        logits: (params, codes, masked, *context) -> logits of every code.
        encode: (tokenizer's params, pictures or clips) -> grids of codes.
        decode: (tokenizer's params, codes) -> pictures or clips.
        grid: shape of an example's codes.
    """

    context: Callable[..., Any]
    logits: Callable[..., jax.Array]
    encode: Callable[..., jax.Array]
    decode: Callable[..., jax.Array]
    grid: tuple[int, ...]


def functions(config: Config) -> Functions:
    assert config.tokenizer is not None
    generator, tokenizer, frames = build(config), visual_tokenizer.build(config.tokenizer), config.data.frames

    def decode(params: Params, codes: jax.Array) -> jax.Array:
        image: jax.Array = tokenizer.apply({"params": params}, codes, method="decode")  # type: ignore[assignment]
        return image[:, :frames] if image.ndim == 5 else image

    def encode(params: Params, image: jax.Array) -> jax.Array:
        codes: jax.Array = tokenizer.apply({"params": params}, image, method="encode")  # type: ignore[assignment]
        return codes

    def logits(params: Params, *seen: jax.Array) -> jax.Array:
        scores: jax.Array = generator.apply({"params": params}, *seen, method="logits")  # type: ignore[assignment]
        return scores

    def context(params: Params, text: jax.Array) -> Any:
        return generator.apply({"params": params}, text, method="context")

    return Functions(context, logits, encode, decode, visual_tokenizer.grid(config.tokenizer))


class CodeTable(nn.Module):
    """A vector a code: one of its own, and one for each of its digits in the finite scalar quantization.

    Codes that share digits look alike, so what is learned of one helps the others.
    """

    levels: Sequence[int]
    width: int

    @nn.compact
    def __call__(self) -> Float[Array, "k d"]:
        normal = nn.initializers.normal(0.5)
        table: jax.Array = self.param("table", normal, (fsq.size(self.levels), self.width))
        for i, digits in enumerate(np.unravel_index(np.arange(len(table)), self.levels, order="F")):
            table += self.param(f"digit_{i}", normal, (self.levels[i], self.width))[digits]
        return table


class MaskedGenerator(nn.Module):
    """Codes, some of them masked, and a text in; logits of every code out.

    Positions are factorized: sines of each coordinate, through a matrix an axis, added up. No parameter depends on the
    size of the grid, so that a model can go on learning at another size or length.

    Attributes:
        model: the configuration.
        vocabulary: number of text token ids.
        levels: of the visual tokenizer's quantization.
        grid: of the codes, (rows, columns) or (frames, rows, columns).
    """

    model: fields.MaskedGenerator
    vocabulary: int
    levels: Sequence[int]
    grid: Sequence[int]

    def setup(self) -> None:
        m, dtype = self.model, jnp.dtype(self.model.dtype)
        self.text = TextEncoder(self.vocabulary, m.width, m.text_layers, m.heads, dtype, m.attention)
        self.codes = CodeTable(self.levels, m.width)
        self.mask = self.param("mask", nn.initializers.normal(0.5), (m.width,))
        self.position = [nn.Dense(m.width, use_bias=False) for _ in self.grid]
        self.local = [ResidualBlock(False, m.convolution, dtype) for _ in range(m.local_blocks)]
        self.layers = Stack(m.layers, m.heads, dtype, m.attention, m.remat, m.unroll)
        self.norm = nn.LayerNorm(dtype=FLOAT32)
        self.head = nn.Dense(m.width, dtype=dtype)
        self.head_norm = nn.LayerNorm(dtype=FLOAT32)
        self.bias = self.param("bias", nn.initializers.zeros, (fsq.size(self.levels),))

    def __call__(
        self,
        text: Int[Array, "b t"],
        codes: Int[Array, "b *grid"],
        masked: Bool[Array, "b *grid"],
        text_mask: Bool[Array, "b"] | None = None,
        hidden_text: Int[Array, "b t"] | None = None,
    ) -> dict[str, Any]:
        """Logits of all codes, and of all words where a text with hidden words is given.

        Args:
            text: token ids, 0 is padding; nothing but padding is no text.
            codes: what is at masked places is not seen.
            masked: the places to fill in.
            text_mask: False where an example has no text; None: all have one.
            hidden_text: the text with some tokens hidden, to be filled in.

        Returns:
            {"logits": float32 [b, *grid, codes]} and, with hidden_text, {"text_logits": float32 [b, t, vocabulary]}.
        """
        given = text if text_mask is None else jnp.where(text_mask[:, None], text, 0)
        outputs = {"logits": self.logits(codes, masked, *self.context(given))}
        if hidden_text is not None:
            features, _ = self.text(hidden_text)
            table = self.text.variables["params"]["table"]
            scale = jnp.float32(self.model.width**-0.5)
            outputs["text_logits"] = features.astype(jnp.float32) @ table.T * scale
        return outputs

    def context(self, text: Int[Array, "b t"]) -> tuple[Float[Array, "b t d"], Bool[Array, "b 1 1 t"]]:
        """What the visual tokens look at: the text's features, and where there are any."""
        features: tuple[jax.Array, jax.Array] = self.text(text)
        return features

    def logits(
        self,
        codes: Int[Array, "b *grid"],
        masked: Bool[Array, "b *grid"],
        context: Float[Array, "b s d"],
        context_mask: Bool[Array, "b 1 1 s"],
    ) -> Float[Array, "b *grid k"]:
        """Logits of the code at every place, float32."""
        m, table, sides = self.model, self.codes(), codes.shape[1:]
        everywhere = (1,) * codes.ndim
        x = jnp.where(masked[..., None], self.mask.reshape(*everywhere, m.width), table[codes])
        for axis, project in enumerate(self.position):
            along = project(sine_positions(sides[axis], m.width))
            x += along.reshape(1, *(n if i == axis else 1 for i, n in enumerate(sides)), m.width)
        x = x.astype(jnp.dtype(m.dtype))
        for block in self.local:
            x = block(x)
        x = x.reshape(x.shape[0], -1, m.width)
        x = self.norm(self.layers(x, None, context, context_mask).astype(jnp.float32))
        x = self.head_norm(nn.gelu(self.head(x)).astype(jnp.float32)).astype(jnp.dtype(m.dtype))
        flat = x.reshape(-1, m.width) @ (table * jnp.float32(m.width**-0.5)).T.astype(x.dtype)
        return flat.astype(jnp.float32).reshape(*codes.shape, -1) + self.bias.reshape(*everywhere, -1)
