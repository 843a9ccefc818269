"""The transformer of the masked generator: fills in visual tokens, attending to the text and to the tokens it has."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float16, Int

from mmjax.config import ModelConfig
from mmjax.config.schema import setting
from mmjax.models.text_encoder import FrozenFeatures, TextEncoder, encode_both, text_logits
from mmjax.nn import fsq
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.positions import rope_angles, sincos_1d, sincos_at
from mmjax.nn.residual import ResidualBlock
from mmjax.nn.transformer import Stack
from mmjax.types import FLOAT32


@dataclass(frozen=True)
class MaskedGeneratorConfig(ModelConfig):
    """The masked generator: a transformer over visual tokens that cross-attends to the text and, where there is a
    component `reference_tokenizer`, to the visual tokens of a reference image.

    Attributes:
        width, heads, layers: of the transformer over the visual tokens.
        text_layers: layers of the text encoder, of the same width and heads; a frozen one has its own.
        local_blocks: residual blocks of convolutions over the rows and columns of visual tokens, each frame by itself,
            before the transformer. Small models learn sooner from them which tokens are neighbors.
        reference: the image of the data set that `reference_tokenizer` encodes, by its name.
        text_dropout, reference_dropout: fraction of the examples whose text, and whose reference, is dropped in
            training; classifier-free guidance needs the first.
    """

    width: int = setting(512, above=0)
    heads: int = setting(8, above=0)
    layers: int = setting(12, above=0)
    text_layers: int = setting(4, above=0)
    local_blocks: int = setting(0, at_least=0)
    reference: str = "image"
    text_dropout: float = setting(0.0, at_least=0, at_most=1)
    reference_dropout: float = setting(0.0, at_least=0, at_most=1)


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
        compute: how it is computed.
    """

    model: MaskedGeneratorConfig
    vocabulary: int
    levels: Sequence[int]
    grid: Sequence[int]
    reference_levels: Sequence[int] = ()
    frozen_text: bool = False
    compute: Compute = DEFAULT

    def setup(self) -> None:
        m, compute = self.model, self.compute
        self.text: Any = (
            FrozenFeatures(m.width, compute)
            if self.frozen_text
            else TextEncoder(self.vocabulary, m.width, m.text_layers, m.heads, compute)
        )
        self.codes = CodeEmbedding(self.levels, m.width)
        self.mask = self.param("mask", nn.initializers.normal(0.5), (m.width,))
        self.position = [nn.Dense(m.width, use_bias=False) for _ in self.grid]
        convolve = (False, compute.convolution, compute.dtype, compute.partitioner)
        self.local = [ResidualBlock(*convolve) for _ in range(m.local_blocks)]
        self.layers = Stack(m.layers, m.heads, compute)
        self.norm = nn.LayerNorm(dtype=FLOAT32)
        self.head = nn.Dense(m.width, dtype=compute.dtype)
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
        x = x.reshape(-1, *sides[-2:], m.width).astype(self.compute.dtype)
        for block in self.local:
            x = block(x)
        x = x.reshape(len(codes), -1, m.width)
        angles = rope_angles(sides, m.width // m.heads)
        x = self.norm(self.layers(x, None, context, context_mask, angles).astype(jnp.float32))
        x = self.head_norm(nn.gelu(self.head(x)).astype(jnp.float32)).astype(self.compute.dtype)
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
