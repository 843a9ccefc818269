"""Transformer of the masked generator: predicts masked visual tokens from a text and the other tokens."""

import math
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
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.convolution import ResidualBlock
from mmjax.nn.dense import dense
from mmjax.nn.positions import rope_angles, sincos_1d
from mmjax.nn.transformer import Stack
from mmjax.types import FLOAT32


@dataclass(frozen=True)
class MaskedGeneratorConfig(ModelConfig):
    """Config of the masked generator.

    It cross-attends to the text and, with a component `reference_tokenizer`, to the tokens of a reference image.

    Attributes:
        width, heads, layers: of the transformer over the visual tokens.
        text_layers: layers of the text encoder, of the same width and heads, unless it is a frozen component.
        local_blocks: residual convolution blocks over rows and columns before the transformer, with which small models
            learn sooner.
        reference: name of the data's image field that `reference_tokenizer` encodes.
        text_dropout, reference_dropout: fraction of the examples whose text or reference training drops;
            classifier-free guidance needs text_dropout.
    """

    width: int = setting(512, above=0, at_most=32_768)
    heads: int = setting(8, above=0, at_most=1_000)
    layers: int = setting(12, above=0, at_most=1_000)
    text_layers: int = setting(4, above=0, at_most=1_000)
    local_blocks: int = setting(0, at_least=0, at_most=100)
    reference: str = "image"
    text_dropout: float = setting(0.0, at_least=0, at_most=1)
    reference_dropout: float = setting(0.0, at_least=0, at_most=1)


class CodeEmbedding(nn.Module):
    """Embedding of the codes: one per code plus one for each of its digits in the finite scalar quantization.

    Codes that share digits look alike, so they share what is learned.
    """

    levels: Sequence[int]
    width: int

    @nn.compact
    def __call__(self) -> Float[Array, "k d"]:
        normal = nn.initializers.normal(0.5)
        embedding: jax.Array = self.param("embedding", normal, (math.prod(self.levels), self.width))
        for i, digits in enumerate(np.unravel_index(np.arange(len(embedding)), self.levels, order="F")):
            embedding += self.param(f"digit_{i}", normal, (self.levels[i], self.width))[digits]
        return embedding


class MaskedGenerator(nn.Module):
    """Predicts logits of every code from partly masked codes and a text.

    Positions are factorized, a projection of sin-cos features per axis, and rotary in attention, with which small
    models learn sooner. No parameter depends on the size of the grid, so that training can continue at another one.

    Attributes:
        model: the config.
        vocabulary: number of text token ids.
        levels: of the visual tokenizer's quantization.
        grid: of the codes, (rows, columns) or (frames, rows, columns).
        reference_levels: of the reference tokenizer's quantization; (): no reference.
        frozen_text: the text's features are an input, by a text encoder that is not part of the model.
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
        self.local = [ResidualBlock(compute=compute) for _ in range(m.local_blocks)]
        self.layers = Stack(m.layers, m.heads, compute)
        self.norm = nn.LayerNorm(dtype=FLOAT32)
        self.head = dense(m.width, compute)
        self.head_norm = nn.LayerNorm(dtype=FLOAT32)
        self.bias = self.param("bias", nn.initializers.zeros, (math.prod(self.levels),))
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
        """Logits of all codes, and of all text tokens with `hidden_text`.

        Args:
            text: token ids, 0 is padding; all padding: no text.
            codes: those at masked positions are ignored.
            masked: positions to predict.
            text_mask: False where an example has no text; None: all have one.
            hidden_text: the text with some tokens masked.
            reference_codes, reference_mask, text_features: see context.

        Returns:
            {"logits": float32 [b, *grid, codes]} and, with hidden_text, {"text_logits": float32 [b, t, vocabulary]}.
        """
        shown_text = text if text_mask is None else jnp.where(text_mask[:, None], text, 0)
        if hidden_text is None:
            context = self.context(shown_text, reference_codes, reference_mask, text_features)
            return {"logits": self.logits(codes, masked, *context)}
        (features, masked_features), mask = encode_both(self.text, shown_text, hidden_text)
        context = self._with_reference(features, mask, reference_codes, reference_mask)
        words = text_logits(masked_features, self.text.variables["params"]["embedding"])
        return {"logits": self.logits(codes, masked, *context), "text_logits": words}

    def context(
        self,
        text: Int[Array, "b t"],
        reference_codes: Int[Array, "b *reference"] | None = None,
        reference_mask: Bool[Array, "b"] | None = None,
        text_features: Float16[Array, "b t e"] | None = None,
    ) -> tuple[jax.Array, ...]:
        """Features of the text and the reference for cross-attention, and their mask.

        With a reference also its code embeddings resampled to the grid: added to the tokens, small models learn from
        them much sooner than from attention alone.

        Args:
            reference_codes: of the reference image or clip, by its tokenizer.
            reference_mask: False where an example has no reference; None: all have one.
            text_features: of the text, where its encoder is frozen.

        Returns:
            float [b, s, d], bool [b, 1, 1, s] and, with a reference, float32 [b, *grid, d].
        """
        features, mask = self.text(text) if text_features is None else self.text(text, text_features)
        return self._with_reference(features, mask, reference_codes, reference_mask)

    def _with_reference(
        self,
        features: Float[Array, "b t d"],
        mask: Bool[Array, "b 1 1 t"],
        reference_codes: Int[Array, "b *reference"] | None,
        reference_mask: Bool[Array, "b"] | None,
    ) -> tuple[jax.Array, ...]:
        if reference_codes is None:
            return features, mask
        reference, placed = self._reference(reference_codes)
        has_reference = jnp.ones(len(features), jnp.bool_) if reference_mask is None else reference_mask
        placed = jnp.where(has_reference.reshape(-1, *(1,) * (placed.ndim - 1)), placed, 0.0)
        reference_mask = jnp.broadcast_to(has_reference[:, None, None, None], (*mask.shape[:-1], reference.shape[1]))
        both = jnp.concatenate([features, reference.astype(features.dtype)], axis=1)
        return both, jnp.concatenate([mask, reference_mask], axis=-1), placed

    def _reference(self, codes: Int[Array, "b *reference"]) -> tuple[Float[Array, "b r d"], Float[Array, "b *grid d"]]:
        """Features of a reference with positions on the grid, and its embeddings at the nearest position of each."""
        width = self.model.width
        placed = vectors = self.reference_codes()[codes]
        x = vectors + self.reference_type_embedding.reshape(*(1,) * codes.ndim, width)
        for axis, (project, side, reference_side) in enumerate(
            zip(self.position, self.grid, codes.shape[1:], strict=True)
        ):
            positions = _reference_positions(side, reference_side, axis == len(self.grid) - 3)
            x += _along(project(sincos_1d(positions, width)), axis, codes.ndim)
            nearest = np.abs(np.arange(side)[:, None] - positions).argmin(axis=1)
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
        """Logits of the code at every position, float32; the context is that of `context`."""
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
        x = self.norm(self.layers(x, None, context, context_mask, angles)[0].astype(jnp.float32))
        x = self.head_norm(nn.gelu(self.head(x)).astype(jnp.float32)).astype(self.compute.dtype)
        flat = x.reshape(-1, m.width) @ (embedding * jnp.float32(m.width**-0.5)).T.astype(x.dtype)
        return flat.astype(jnp.float32).reshape(*codes.shape, -1) + self.bias.reshape(*everywhere, -1)


def _along(vectors: Float[Array, "n d"], axis: int, rank: int) -> Float[Array, "*ones d"]:
    """Reshapes vectors along an axis of the grid to broadcast over [b, *grid, d]; `rank` is that of [b, *grid]."""
    shape = [1] * rank
    shape[axis + 1] = len(vectors)
    return vectors.reshape(*shape, -1)


def _reference_positions(side: int, reference_side: int, time: bool) -> Float[np.ndarray, "n"]:
    """Positions of a reference on the grid along an axis.

    Rows and columns align by the centers of their patches; in time the first and the last frames align.
    """
    if time:
        return np.arange(reference_side) * ((side - 1) / max(reference_side - 1, 1))
    return (np.arange(reference_side) + 0.5) * (side / reference_side) - 0.5
