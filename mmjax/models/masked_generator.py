"""The masked generator: a transformer that fills in visual tokens, looking at the text and at the tokens it has.

After MaskGIT (Chang et al. 2022, arXiv:2202.04200) and Muse (Chang et al. 2023, arXiv:2301.00704). Generating,
inpainting, the next frames: all are choices of which tokens are masked. Looking at the tokens of the same image at
fewer pixels as well, it is the super-resolution stage of Muse (section 2.4).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float16, Int

from mmjax.config import Config, model_fields
from mmjax.models import text_encoder, visual_tokenizer
from mmjax.models.rules import STACK, Rules, joined
from mmjax.models.text_encoder import FrozenFeatures, TextEncoder, encode_both, text_logits
from mmjax.nn import fsq
from mmjax.nn.partitioner import UNSHARDED, Partitioner
from mmjax.nn.positions import rope_angles, sincos_1d, sincos_at
from mmjax.nn.residual import ResidualBlock
from mmjax.nn.transformer import Stack
from mmjax.types import FLOAT32, Params

_RULES: Rules = (
    (r"(reference_)?codes/embedding", ("model", "fsdp")),
    (r"(reference_)?codes/digit_\d+", (None, "fsdp")),
    (r"position_\d+/kernel", (None, "fsdp")),
    (r"head/kernel", ("fsdp", "model")),
    (r"mask|reference_type_embedding", ("fsdp",)),
)


def build(config: Config, partitioner: Partitioner = UNSHARDED) -> "MaskedGenerator":
    assert isinstance(config.model, model_fields.MaskedGeneratorConfig)
    assert config.tokenizer is not None and isinstance(config.tokenizer.model, model_fields.VisualTokenizerConfig)
    grid = visual_tokenizer.grid(config.tokenizer)
    reference: tuple[int, ...] = ()
    if config.reference is not None:
        assert isinstance(config.reference.model, model_fields.VisualTokenizerConfig)
        reference = config.reference.model.levels
    frozen = config.text_encoder is not None
    assert frozen == bool(config.tokens.text_encoder)
    levels, vocabulary = config.tokenizer.model.levels, config.text.vocabulary
    return MaskedGenerator(config.model, vocabulary, levels, grid, reference, frozen, partitioner)


def inputs(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    assert config.tokenizer is not None
    grid = visual_tokenizer.grid(config.tokenizer)
    reference = {}
    if config.reference is not None:
        theirs = visual_tokenizer.grid(config.reference)
        reference = {"reference_codes": jax.ShapeDtypeStruct((1, *theirs), jnp.int32)}
    features = {}
    if config.text_encoder is not None:
        shape = (1, config.text.length, config.text_encoder.width)
        features = {"text_features": jax.ShapeDtypeStruct(shape, jnp.float16)}
    return {
        "text": jax.ShapeDtypeStruct((1, config.text.length), jnp.int32),
        **features,
        "codes": jax.ShapeDtypeStruct((1, *grid), jnp.int32),
        "masked": jax.ShapeDtypeStruct((1, *grid), jnp.bool_),
        **reference,
    }


def sharding_rules(config: Config) -> Rules:
    assert isinstance(config.model, model_fields.MaskedGeneratorConfig) and config.tokenizer is not None
    local: Rules = ((r"local_\d+/(first|second)/kernel", (None, None, "fsdp", "model")),)
    text = text_encoder.RULES if config.text_encoder is None else text_encoder.FROZEN_RULES
    return joined(STACK, local if config.model.local_blocks else (), text, _RULES)


@dataclass(frozen=True)
class ModelFns:
    """What sampling needs of a generator and its visual tokenizer.

    Attributes:
        context: (params, text, **given) -> features and their mask; see MaskedGenerator.context.
        logits: (params, codes, masked, *context) -> logits of every code.
        encode: (tokenizer's params, images or clips) -> grids of codes.
        encode_reference: (reference tokenizer's params, images or clips of any size) -> grids of its codes.
        decode: (tokenizer's params, codes) -> images or clips.
        grid: shape of an example's codes.
    """

    context: Callable[..., Any]
    logits: Callable[..., jax.Array]
    encode: Callable[..., jax.Array]
    encode_reference: Callable[..., jax.Array] | None
    decode: Callable[..., jax.Array]
    grid: tuple[int, ...]


def model_fns(config: Config, partitioner: Partitioner = UNSHARDED) -> ModelFns:
    assert config.tokenizer is not None
    generator, tokenizer, frames = (
        build(config, partitioner),
        visual_tokenizer.build(config.tokenizer),
        config.data.frames,
    )

    def decode(params: Params, codes: jax.Array) -> jax.Array:
        image: jax.Array = tokenizer.apply({"params": params}, codes, method="decode")  # type: ignore[assignment]
        return image[:, :frames] if image.ndim == 5 else image

    def encode(params: Params, image: jax.Array) -> jax.Array:
        codes: jax.Array = tokenizer.apply({"params": params}, image, method="encode")  # type: ignore[assignment]
        return codes

    def logits(params: Params, *seen: jax.Array) -> jax.Array:
        scores: jax.Array = generator.apply({"params": params}, *seen, method="logits")  # type: ignore[assignment]
        return scores

    def context(params: Params, text: jax.Array, **given: jax.Array) -> Any:
        return generator.apply({"params": params}, text, **given, method="context")  # type: ignore[arg-type]

    encode_reference = None if config.reference is None else _encode_reference(config.reference)
    return ModelFns(context, logits, encode, encode_reference, decode, visual_tokenizer.grid(config.tokenizer))


def _encode_reference(config: Config) -> Callable[..., jax.Array]:
    tokenizer, size = visual_tokenizer.build(config), config.data.size

    def encode(params: Params, image: Float[Array, "b *pixels c"]) -> Int[Array, "b *grid"]:
        # Triangle filter with antialias, as all images are resized.
        resized = jax.image.resize(image, (*image.shape[:-3], size, size, image.shape[-1]), "linear")
        codes: jax.Array = tokenizer.apply({"params": params}, resized, method="encode")  # type: ignore[assignment]
        return codes

    return encode


class CodeEmbedding(nn.Module):
    """A vector a code: one of its own, and one for each of its digits in the finite scalar quantization.

    Codes that share digits look alike, so what is learned of one helps the others.
    """

    levels: Sequence[int]
    width: int

    @nn.compact
    def __call__(self) -> Float[Array, "k d"]:
        normal = nn.initializers.normal(0.5)
        embedding: jax.Array = self.param("embedding", normal, (fsq.size(self.levels), self.width))
        for i, digits in enumerate(np.unravel_index(np.arange(len(embedding)), self.levels, order="F")):
            embedding += self.param(f"digit_{i}", normal, (self.levels[i], self.width))[digits]
        return embedding


class MaskedGenerator(nn.Module):
    """Codes, some of them masked, and a text in; logits of every code out.

    Positions are factorized: sines of each coordinate, through a matrix an axis, added up, and rotary in attention,
    which tells small models sooner what lies beside what. No parameter depends on the size of the grid, so that a
    model can go on learning at another size or length.

    Attributes:
        model: the configuration.
        vocabulary: number of text token ids.
        levels: of the visual tokenizer's quantization.
        grid: of the codes, (rows, columns) or (frames, rows, columns).
        reference_levels: of the quantization of the reference's visual tokenizer; (): takes no reference.
        frozen_text: the features of the text are given, by a text encoder that is no part of the model.
        partitioner: of the activations on the devices.
    """

    model: model_fields.MaskedGeneratorConfig
    vocabulary: int
    levels: Sequence[int]
    grid: Sequence[int]
    reference_levels: Sequence[int] = ()
    frozen_text: bool = False
    partitioner: Partitioner = UNSHARDED

    def setup(self) -> None:
        m, dtype = self.model, jnp.dtype(self.model.dtype)
        self.text: Any = (
            FrozenFeatures(m.width, dtype)
            if self.frozen_text
            else TextEncoder(
                self.vocabulary, m.width, m.text_layers, m.heads, dtype, m.attention, self.partitioner, m.unroll
            )
        )
        self.codes = CodeEmbedding(self.levels, m.width)
        self.mask = self.param("mask", nn.initializers.normal(0.5), (m.width,))
        self.position = [nn.Dense(m.width, use_bias=False) for _ in self.grid]
        self.local = [ResidualBlock(False, m.convolution, dtype, self.partitioner) for _ in range(m.local_blocks)]
        self.layers = Stack(m.layers, m.heads, dtype, m.attention, m.remat, m.unroll, m.remat_policy, self.partitioner)
        self.norm = nn.LayerNorm(dtype=FLOAT32)
        self.head = nn.Dense(m.width, dtype=dtype)
        self.head_norm = nn.LayerNorm(dtype=FLOAT32)
        self.bias = self.param("bias", nn.initializers.zeros, (fsq.size(self.levels),))
        if self.reference_levels:
            self.reference_codes = CodeEmbedding(self.reference_levels, m.width)
            self.reference_type_embedding = self.param(
                "reference_type_embedding", nn.initializers.normal(0.5), (m.width,)
            )
            self.reference_norm = nn.LayerNorm(dtype=FLOAT32)

    def __call__(
        self,
        text: Int[Array, "b t"],
        codes: Int[Array, "b *grid"],
        masked: Bool[Array, "b *grid"],
        text_mask: Bool[Array, "b"] | None = None,
        hidden_text: Int[Array, "b t"] | None = None,
        reference_codes: Int[Array, "b *reference"] | None = None,
        reference_mask: Bool[Array, "b"] | None = None,
        text_features: Float16[Array, "b t e"] | None = None,
    ) -> dict[str, Any]:
        """Logits of all codes, and of all words where a text with hidden words is given.

        Args:
            text: token ids, 0 is padding; nothing but padding is no text.
            codes: what is at masked places is not seen.
            masked: the places to fill in.
            text_mask: False where an example has no text; None: all have one.
            hidden_text: the text with some tokens hidden, to be filled in.
            reference_codes, reference_mask, text_features: see context.

        Returns:
            {"logits": float32 [b, *grid, codes]} and, with hidden_text, {"text_logits": float32 [b, t, vocabulary]}.
        """
        given = text if text_mask is None else jnp.where(text_mask[:, None], text, 0)
        if hidden_text is None:
            context = self.context(given, reference_codes, reference_mask, text_features)
            return {"logits": self.logits(codes, masked, *context)}
        (features, filled), mask = encode_both(self.text, given, hidden_text)
        context = self._context(features, mask, reference_codes, reference_mask)
        words = text_logits(filled, self.text.variables["params"]["embedding"])
        return {"logits": self.logits(codes, masked, *context), "text_logits": words}

    def context(
        self,
        text: Int[Array, "b t"],
        reference_codes: Int[Array, "b *reference"] | None = None,
        reference_mask: Bool[Array, "b"] | None = None,
        text_features: Float16[Array, "b t e"] | None = None,
    ) -> tuple[jax.Array, ...]:
        """What the visual tokens look at: the features of the text, then those of the reference, and where any are.

        With a reference also what lies at each place of the grid itself: a small model learns a whole lot sooner from
        that than from attention alone what goes with what.

        Args:
            reference_codes: of the reference image or clip, by its own visual tokenizer.
            reference_mask: False where an example's reference is withheld; None: all are seen.
            text_features: of the text, where its encoder is frozen.

        Returns:
            float [b, s, d], bool [b, 1, 1, s] and, with a reference, float32 [b, *grid, d].
        """
        features, mask = self.text(text) if text_features is None else self.text(text, text_features)
        return self._context(features, mask, reference_codes, reference_mask)

    def _context(
        self,
        features: Float[Array, "b t d"],
        mask: Bool[Array, "b 1 1 t"],
        reference_codes: Int[Array, "b *reference"] | None,
        reference_mask: Bool[Array, "b"] | None,
    ) -> tuple[jax.Array, ...]:
        if reference_codes is None:
            return features, mask
        reference, placed = self._reference(reference_codes)
        shown = jnp.ones(len(features), jnp.bool_) if reference_mask is None else reference_mask
        placed = jnp.where(shown.reshape(-1, *(1,) * (placed.ndim - 1)), placed, 0.0)
        seen = jnp.broadcast_to(shown[:, None, None, None], (*mask.shape[:-1], reference.shape[1]))
        both = jnp.concatenate([features, reference.astype(features.dtype)], axis=1)
        return both, jnp.concatenate([mask, seen], axis=-1), placed

    def _reference(self, codes: Int[Array, "b *reference"]) -> tuple[Float[Array, "b r d"], Float[Array, "b *grid d"]]:
        """The features of a reference, with positions that are those of the grid to fill in, and what lies at those."""
        width = self.model.width
        placed = vectors = self.reference_codes()[codes]
        x = vectors + self.reference_type_embedding.reshape(*(1,) * codes.ndim, width)
        for axis, (project, ours, theirs) in enumerate(zip(self.position, self.grid, codes.shape[1:], strict=True)):
            places = _places(ours, theirs, axis == len(self.grid) - 3)
            x += _along(project(sincos_at(places, width)), axis, codes.ndim)
            nearest = np.abs(np.arange(ours)[:, None] - places).argmin(axis=1)
            placed = jnp.take(placed, nearest, axis=axis + 1)
        return self.reference_norm(x.reshape(len(codes), -1, width)), placed

    def logits(
        self,
        codes: Int[Array, "b *grid"],
        masked: Bool[Array, "b *grid"],
        context: Float[Array, "b s d"],
        context_mask: Bool[Array, "b 1 1 s"],
        placed: Float[Array, "b *grid d"] | None = None,
    ) -> Float[Array, "b *grid k"]:
        """Logits of the code at every place, float32; see context."""
        m, embedding, sides = self.model, self.codes(), codes.shape[1:]
        everywhere = (1,) * codes.ndim
        x = jnp.where(masked[..., None], self.mask.reshape(*everywhere, m.width), embedding[codes])
        x = x if placed is None else x + placed
        for axis, project in enumerate(self.position):
            x += _along(project(sincos_1d(sides[axis], m.width)), axis, codes.ndim)
        x = x.reshape(-1, *sides[-2:], m.width).astype(jnp.dtype(m.dtype))
        for block in self.local:
            x = block(x)
        x = x.reshape(len(codes), -1, m.width)
        angles = rope_angles(sides, m.width // m.heads)
        x = self.norm(self.layers(x, None, context, context_mask, angles).astype(jnp.float32))
        x = self.head_norm(nn.gelu(self.head(x)).astype(jnp.float32)).astype(jnp.dtype(m.dtype))
        flat = x.reshape(-1, m.width) @ (embedding * jnp.float32(m.width**-0.5)).T.astype(x.dtype)
        return flat.astype(jnp.float32).reshape(*codes.shape, -1) + self.bias.reshape(*everywhere, -1)


def _along(vectors: Float[Array, "n d"], axis: int, rank: int) -> Float[Array, "*ones d"]:
    """A vector for each place along an axis of the grid, for an array [b, *grid, d]; `rank` is that of [b, *grid]."""
    shape = [1] * rank
    shape[axis + 1] = len(vectors)
    return vectors.reshape(*shape, -1)


def _places(ours: int, theirs: int, time: bool) -> Float[np.ndarray, "n"]:
    """Where the `theirs` places of the reference lie among our own, along an axis.

    Rows and columns are equal parts of the image, so their centers are matched. The first frame is coded on its own,
    so first and last are matched in time.
    """
    if time:
        return np.arange(theirs) * ((ours - 1) / max(theirs - 1, 1))
    return (np.arange(theirs) + 0.5) * (ours / theirs) - 0.5
