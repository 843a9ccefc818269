"""Vision-language network: encoders, contrastive embeddings, fusion, text decoder and heads.

The encoders are those of CLIP (Radford et al. 2021, arXiv:2103.00020), the fusion that of ALBEF (Li et al. 2021,
arXiv:2107.07651), the text decoder that of BLIP (Li et al. 2022, arXiv:2201.12086) and CoCa (Yu et al. 2022,
arXiv:2205.01917).
"""

import math
from collections.abc import Set
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from mmjax.config import ModelConfig
from mmjax.config.schema import setting
from mmjax.models.fusion import Fusion
from mmjax.models.pretrained_encoder import PretrainedVision, Tower
from mmjax.models.resnet import ResNet
from mmjax.models.text_decoder import TextDecoder
from mmjax.models.text_encoder import TextEncoder, encode_both, text_logits
from mmjax.models.vision_encoder import VideoEncoder, VisionEncoder
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.hard_negatives import hard_negatives
from mmjax.nn.positions import sincos_grid
from mmjax.nn.transformer import AttentionPooling
from mmjax.types import FLOAT32

FIRST_SCALE, MAX_SCALE = 1 / 0.07, 100.0  # of contrastive similarities (Radford et al. 2021, section 2.5)
FIRST_SIGMOID = (10.0, -10.0)  # scale and offset (Zhai et al. 2023, section 3.2)
MATCHED = 3  # pairs per example in matching


@dataclass(frozen=True)
class VisionLanguageConfig(ModelConfig):
    """Config of a vision-language model. Only what the losses need is built.

    Attributes:
        encoder: "vit", a vision transformer for images, clips and spectrograms, or "resnet", ResNet-50 for images. With
            a component `vision_encoder`, a pretrained one, encoder, patch, time, registers, stem and layers have no
            effect.
        fine_tune: train the component `vision_encoder` as well; else it stays as it is.
        patch, time: side of a patch in pixels, and for clips its frames.
        registers: register tokens of the vision encoder (Darcet et al. 2023).
        stem: channels of convolutions of stride 2 before the patches, for images; small models learn much faster with
            log2(patch) of them.
        width, heads, layers: of the vision encoder; the other parts share the width and heads.
        text_layers, fusion_layers, decoder_layers: layers of the other parts.
        fusion: for matching, answers and classes of questions; see fusion.Fusion.
        embedding: width of the contrastive embeddings.
        classify: input of classification: "image", "text" or, of both, "question".
        classes: number of classes.
    """

    encoder: Literal["vit", "resnet"] = "vit"
    fine_tune: bool = False
    patch: int = setting(16, above=0, at_most=8_192)
    time: int = setting(2, above=0, at_most=10_000)
    registers: int = setting(0, at_least=0, at_most=10_000)
    stem: tuple[int, ...] = setting((), above=0, at_most=16_384)
    width: int = setting(512, above=0, at_most=32_768)
    heads: int = setting(8, above=0, at_most=1_000)
    layers: int = setting(12, above=0, at_most=1_000)
    text_layers: int = setting(6, above=0, at_most=1_000)
    fusion_layers: int = setting(3, above=0, at_most=1_000)
    decoder_layers: int = setting(6, above=0, at_most=1_000)
    fusion: Literal["cross_attention", "joint", "mlp", "bilinear"] = "cross_attention"
    embedding: int = setting(256, above=0, at_most=32_768)
    classify: Literal["image", "text", "question"] = "image"
    classes: int = setting(0, at_least=0, at_most=2**24)


_CONTRASTIVE = frozenset({"vision", "text", "contrastive"})
# The parts that each output needs, beside a head of its own; "class_logits" depends on what is classified.
PARTS = {
    "image_embedding": _CONTRASTIVE,
    "text_embedding": _CONTRASTIVE,
    "offset": _CONTRASTIVE,
    "match_logits": frozenset({"vision", "text", "fusion"}),
    "caption_logits": frozenset({"vision", "decoder"}),
    "answer_logits": frozenset({"vision", "text", "fusion", "decoder"}),
    "class_logits": frozenset(),
    "text_logits": frozenset({"text"}),
    "patches": frozenset({"vision"}),
}
_CLASSIFIED = {"image": {"vision"}, "text": {"text"}, "question": {"vision", "text", "fusion"}}


def required_parts(model: VisionLanguageConfig, outputs: Set[str]) -> set[str]:
    """Which parts these outputs need: "vision", "text", "contrastive", "fusion", "decoder"."""
    classified = _CLASSIFIED[model.classify] if "class_logits" in outputs else ()
    return set().union(classified, *(PARTS[name] for name in outputs if name in PARTS))


class VisionLanguage(nn.Module):
    """Encodes images and texts and computes the outputs that the losses need.

    Attributes:
        model: the config.
        vocabulary: number of text token ids.
        outputs: needed outputs; only their parts are built.
        image: shape of an image, [y, x, c], or clip, [f, y, x, c].
        grid: shape of the grid of visual tokens; see vision_language.grid.
        tower: a pretrained image encoder in place of the config's.
    """

    model: VisionLanguageConfig
    vocabulary: int
    outputs: frozenset[str]
    image: tuple[int, ...]
    grid: tuple[int, ...]
    compute: Compute = DEFAULT
    tower: Tower | None = None

    def setup(self) -> None:
        m, compute, outputs = self.model, self.compute, self.outputs
        parts = required_parts(m, outputs)
        if "vision" in parts:
            self.vision: Any = self._encoder()
        if "text" in parts:
            self.text = TextEncoder(self.vocabulary, m.width, m.text_layers, m.heads, compute)
        if "contrastive" in parts:
            self.image_pooling = AttentionPooling(m.heads, compute)
            self.text_pooling = AttentionPooling(m.heads, compute)
            self.image_projection = nn.Dense(m.embedding, use_bias=False, dtype=FLOAT32)
            self.text_projection = nn.Dense(m.embedding, use_bias=False, dtype=FLOAT32)
            scale, offset = FIRST_SIGMOID if "offset" in outputs else (FIRST_SCALE, 0.0)
            self.log_scale = self.param("log_scale", nn.initializers.constant(jnp.log(scale)), ())
            if "offset" in outputs:
                self.offset = self.param("offset", nn.initializers.constant(offset), ())
        if "fusion" in parts:
            self.fusion = Fusion(m.fusion, m.fusion_layers, m.heads, compute)
        if "match_logits" in outputs:
            self.match_pooling = AttentionPooling(m.heads, compute)
            self.match_head = nn.Dense(1, dtype=FLOAT32)
        if "class_logits" in outputs:
            self.class_pooling = AttentionPooling(m.heads, compute)
            self.class_head = nn.Dense(m.classes, dtype=FLOAT32)
        if "decoder" in parts:
            self.decoder = TextDecoder(self.vocabulary, m.width, m.decoder_layers, m.heads, compute)
        if "patches" in outputs:
            self.patch_head = nn.Dense(self.image[-1] * m.patch**2, dtype=FLOAT32)

    def _encoder(self) -> nn.Module:
        m, compute = self.model, self.compute
        if self.tower is not None:
            return PretrainedVision(self.tower, math.prod(self.grid), m.width, compute)
        if m.encoder == "resnet":
            return ResNet(m.width, compute=compute)
        if len(self.image) == 4:
            return VideoEncoder(m.patch, m.time, m.width, m.layers, m.heads, compute)
        masking = "patches" in self.outputs
        return VisionEncoder(m.patch, m.width, m.layers, m.heads, compute, m.registers, masking, m.stem)

    def __call__(
        self,
        image: Float[Array, "b *f y x c"] | None = None,
        text: Int[Array, "b t"] | None = None,
        question: Int[Array, "b t"] | None = None,
        answer: Int[Array, "b t"] | None = None,
        hidden_text: Int[Array, "b t"] | None = None,
        hide_patches: tuple[jax.Array, Float[Array, "b"]] | None = None,
        negatives: tuple[jax.Array, UInt32[Array, "b"], Bool[Array, "b"]] | None = None,
        rows: Bool[Array, "b"] | None = None,
        training: bool = False,
    ) -> dict[str, Any]:
        """Computes the needed outputs.

        Args:
            image: images or clips from -1 to 1, or spectrograms.
            text, question, answer: token ids, 0 is padding.
            hidden_text: the text with some tokens masked.
            hide_patches: random keys [b], and the fractions of the patches to mask.
            negatives: for matching: random keys [b], the group of each text and which examples have one.
            rows, training: for a ResNet: the valid rows of its batch statistics, and whether to compute them.

        Returns:
            Those needed of "image_embedding" and "text_embedding" [b, e], "scale" [b], "offset" [b];
            "match_logits" [b, 3], "match_others" [b, 2]; "caption_logits" and "answer_logits" [b, t, v];
            "class_logits" [b, k]; "text_logits" [b, t, v]; "patches" and "patch_pixels" [b, n, p],
            "hidden_patches" [b, n].
        """
        needed, parts = self.outputs, required_parts(self.model, self.outputs)
        outputs: dict[str, jax.Array] = {}
        norm_inputs = {} if rows is None else {"rows": rows, "training": training}
        visual: Any = None if image is None else self._add_positions(self.vision(image, **norm_inputs))
        words: Any = None
        if text is not None and hidden_text is not None:
            (features, masked_features), mask = encode_both(self.text, text, hidden_text)
            words = (features, mask)
            outputs["text_logits"] = text_logits(masked_features, self.text.variables["params"]["embedding"])
        elif text is not None and "text" in parts:
            words = self.text(text)
        if "contrastive" in parts:
            outputs |= self._embeddings(visual, *words)
        if "match_logits" in needed:
            outputs |= self._match(visual, words, outputs, negatives)
        if "caption_logits" in needed and text is not None:
            outputs["caption_logits"] = self.decoder(text, visual)
        fused: Any = None if question is None else self.fusion(visual, *self.text(question))
        if "answer_logits" in needed and answer is not None:
            outputs["answer_logits"] = self.decoder(answer, fused)
        if "class_logits" in needed:
            outputs["class_logits"] = self._classes(visual, words, fused)
        if "patches" in needed and image is not None:
            outputs |= self._patches(image, hide_patches)
        return outputs

    def embed_image(self, image: Float[Array, "b *f y x c"]) -> Float[Array, "b e"]:
        """Contrastive embedding of length 1, float32."""
        return self._embed_image(self._add_positions(self.vision(image)))

    def embed_text(self, text: Int[Array, "b t"]) -> Float[Array, "b e"]:
        """Contrastive embedding of length 1, float32."""
        return self._embed_text(*self.text(text))

    def context(
        self, image: Float[Array, "b *f y x c"], question: Int[Array, "b t"] | None = None
    ) -> Float[Array, "b n d"]:
        """Features that the decoder attends to: of an image or, fused, of an image and a question."""
        visual = self._add_positions(self.vision(image))
        return visual if question is None else self.fusion(visual, *self.text(question))

    def _add_positions(self, visual: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """Adds positions, for attention by content (Carion et al. 2020, arXiv:2005.12872, section A.4)."""
        return visual + sincos_grid(self.grid, visual.shape[-1])[None].astype(visual.dtype)

    def _embed_image(self, visual: Float[Array, "b n d"]) -> Float[Array, "b e"]:
        return _unit(self.image_projection(self.image_pooling(visual).astype(jnp.float32)))

    def _embed_text(self, words: Float[Array, "b t d"], mask: Bool[Array, "b 1 1 t"]) -> Float[Array, "b e"]:
        return _unit(self.text_projection(self.text_pooling(words, mask).astype(jnp.float32)))

    def _embeddings(self, visual: jax.Array, words: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
        image, text = self._embed_image(visual), self._embed_text(words, mask)
        scale = jnp.minimum(jnp.exp(self.log_scale), MAX_SCALE)
        outputs = {"image_embedding": image, "text_embedding": text, "scale": jnp.broadcast_to(scale, len(image))}
        if "offset" in self.outputs:
            outputs["offset"] = jnp.broadcast_to(self.offset, len(image))
        return outputs

    def _match(
        self, visual: jax.Array, words: Any, embedded: dict[str, jax.Array], negatives: Any
    ) -> dict[str, jax.Array]:
        """Match logits of each example's pair and of two hard negatives: another text, another image."""
        features, mask = words
        if negatives is None:  # at initialization
            count = len(visual)
            keys = jax.random.split(jax.random.key(0), count)
            negatives = (keys, jnp.arange(count, dtype=jnp.uint32), jnp.ones(count, jnp.bool_))
        keys, groups, present = negatives
        image, text = (jax.lax.stop_gradient(embedded[f"{name}_embedding"]) for name in ("image", "text"))
        scaled = image * jax.lax.stop_gradient(embedded["scale"])[:, None]
        text_keys, image_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
        other_text = hard_negatives(scaled, text, groups, present, text_keys)
        other_image = hard_negatives(text, scaled, groups, present, image_keys)
        pairs = (
            jnp.concatenate([visual, visual, visual[other_image]]),
            jnp.concatenate([features, features[other_text], features]),
            jnp.concatenate([mask, mask[other_text], mask]),
        )
        pooled = self.match_pooling(self.fusion(*pairs))
        logits = self.match_head(pooled.astype(jnp.float32)).reshape(MATCHED, -1).T
        return {"match_logits": logits, "match_others": jnp.stack([other_text, other_image], axis=1)}

    def _classes(self, visual: Any, words: Any, fused: Any) -> Float[Array, "b k"]:
        features = {"image": (visual,), "text": words, "question": (fused,)}[self.model.classify]
        return self.class_head(self.class_pooling(*features).astype(jnp.float32))

    def _patches(self, image: jax.Array, hide: tuple[jax.Array, jax.Array] | None) -> dict[str, jax.Array]:
        patch = self.model.patch
        b, y, x, c = image.shape
        pixels = image.reshape(b, y // patch, patch, x // patch, patch, c).transpose(0, 1, 3, 2, 4, 5)
        pixels = pixels.reshape(b, -1, patch * patch * c)
        keys, mask_ratios = hide or (jax.random.split(jax.random.key(0), b), jnp.full(b, 0.5))
        noise = jax.vmap(lambda key: jax.random.uniform(key, pixels.shape[1:2]))(keys)
        hidden = noise < mask_ratios[:, None]
        predicted = self.patch_head(self.vision(image, hidden).astype(jnp.float32))
        return {"patches": predicted, "patch_pixels": pixels, "hidden_patches": hidden}


def _unit(x: Float[Array, "b e"]) -> Float[Array, "b e"]:
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)
