"""The network of images and texts: encoders, a shared embedding, fusion, text decoder and heads.

A vision encoder and a text encoder, as in CLIP (Radford et al. 2021, arXiv:2103.00020); a fusion of the two, as in
ALBEF (Li et al. 2021, arXiv:2107.07651); a text decoder that attends to what they give, as in BLIP (Li et al. 2022,
arXiv:2201.12086) and CoCa (Yu et al. 2022, arXiv:2205.01917).
"""

from collections.abc import Set
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from mmjax.config import ModelConfig
from mmjax.config.schema import setting
from mmjax.models import fusion
from mmjax.models.resnet import ResNet
from mmjax.models.text_decoder import Cache, TextDecoder
from mmjax.models.text_encoder import TextEncoder, encode_both, text_logits
from mmjax.models.video_encoder import VideoEncoder
from mmjax.models.vision_encoder import VisionEncoder
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.hard_negatives import hard_negatives
from mmjax.nn.pooling import AttentionPooling
from mmjax.nn.positions import sincos_1d, sincos_2d
from mmjax.types import FLOAT32

FIRST_SCALE = 1 / 0.07  # of contrastive similarities (Radford et al. 2021, section 2.5)
FIRST_SIGMOID = (10.0, -10.0)  # scale and offset (Zhai et al. 2023, section 3.2)
MAX_SCALE = 100.0
MATCHED = 3  # pairs of an example that matching judges


@dataclass(frozen=True)
class VisionLanguageConfig(ModelConfig):
    """Images and texts in one model. What the losses need is built, and nothing else.

    Attributes:
        encoder: of the images: "vit", a vision transformer, which for clips (data.frames) attends over space and time
            and takes sounds as well, or "resnet", ResNet-50, for images.
        patch, time: sides of the patches in pixels, and for clips their frames.
        registers: tokens that the vision encoder has beside those of the patches (Darcet et al. 2023).
        stem: of a vision transformer for images: channels of convolutions that halve the sides, before the patches.
            Small models learn much sooner with as many as make a patch.
        width, heads, layers: of the vision encoder; the others are as wide.
        text_layers, fusion_layers, decoder_layers: of the text encoder, of the fusion and of the text decoder.
        fusion: how visual tokens take up a text, for matching, answers and classes of questions: "cross_attention",
            "joint" (self-attention over both), "mlp" or "bilinear".
        embedding: width of the space that images and texts share.
        classify: what the classes are of: "image", "text" or, of both, "question".
        classes: how many there are.
    """

    encoder: Literal["vit", "resnet"] = "vit"
    patch: int = setting(16, above=0)
    time: int = setting(2, above=0)
    registers: int = setting(0, at_least=0)
    stem: tuple[int, ...] = setting((), above=0)
    width: int = setting(512, above=0)
    heads: int = setting(8, above=0)
    layers: int = setting(12, above=0)
    text_layers: int = setting(6, above=0)
    fusion_layers: int = setting(3, above=0)
    decoder_layers: int = setting(6, above=0)
    fusion: Literal["cross_attention", "joint", "mlp", "bilinear"] = "cross_attention"
    embedding: int = setting(256, above=0)
    classify: Literal["image", "text", "question"] = "image"
    classes: int = setting(0, at_least=0)


def has_contrastive(outputs: Set[str]) -> bool:
    """Whether these outputs need a shared embedding."""
    return "image_embedding" in outputs or "text_embedding" in outputs


def has_decoder(outputs: Set[str]) -> bool:
    """Whether these outputs need the text decoder."""
    return bool({"caption_logits", "answer_logits"} & outputs)


def uses_fusion(model: VisionLanguageConfig, outputs: Set[str]) -> bool:
    """Whether these outputs need images and texts together."""
    asked = "class_logits" in outputs and model.classify == "question"
    return asked or bool({"match_logits", "answer_logits"} & outputs)


def required_encoders(model: VisionLanguageConfig, outputs: Set[str]) -> set[str]:
    """Which encoders these outputs need: "image", "text"."""
    both = {"image", "text"}
    encoders = {
        "image_embedding": both,
        "text_embedding": both,
        "match_logits": both,
        "caption_logits": {"image"},
        "answer_logits": both,
        "text_logits": {"text"},
        "patches": {"image"},
        "class_logits": both if model.classify == "question" else {model.classify},
    }
    return set().union(*(encoders[name] for name in outputs if name in encoders))


class VisionLanguage(nn.Module):
    """Images and texts in; what each of the objective's terms needs out.

    Attributes:
        model: the configuration.
        vocabulary: number of text token ids.
        outputs: what is needed of it, which decides what is built.
        image: shape of what the vision encoder sees: [y, x, c], or of clips [f, y, x, c].
        grid: of the visual tokens; see the function of that name.
        compute: how it is computed.
    """

    model: VisionLanguageConfig
    vocabulary: int
    outputs: frozenset[str]
    image: tuple[int, ...]
    grid: tuple[int, ...]
    compute: Compute = DEFAULT

    def setup(self) -> None:
        m, compute, outputs = self.model, self.compute, self.outputs
        dtype, encoders = compute.dtype, required_encoders(m, outputs)
        if "image" in encoders:
            self.vision: Any = self._encoder()
        if "text" in encoders:
            self.text = TextEncoder(self.vocabulary, m.width, m.text_layers, m.heads, compute)
        if has_contrastive(outputs):
            self.image_pooling = AttentionPooling(m.heads, dtype)
            self.text_pooling = AttentionPooling(m.heads, dtype)
            self.image_projection = nn.Dense(m.embedding, use_bias=False, dtype=FLOAT32)
            self.text_projection = nn.Dense(m.embedding, use_bias=False, dtype=FLOAT32)
            scale, offset = FIRST_SIGMOID if "offset" in outputs else (FIRST_SCALE, 0.0)
            self.log_scale = self.param("log_scale", nn.initializers.constant(jnp.log(scale)), ())
            if "offset" in outputs:
                self.offset = self.param("offset", nn.initializers.constant(offset), ())
        if uses_fusion(m, outputs):
            self.fusion = fusion.make_fusion(m.fusion, m.fusion_layers, m.heads, compute)
        if "match_logits" in outputs:
            self.match_pooling = AttentionPooling(m.heads, dtype)
            self.match_head = nn.Dense(1, dtype=FLOAT32)
        if "class_logits" in outputs:
            self.class_pooling = AttentionPooling(m.heads, dtype)
            self.class_head = nn.Dense(m.classes, dtype=FLOAT32)
        if has_decoder(outputs):
            self.decoder = TextDecoder(self.vocabulary, m.width, m.decoder_layers, m.heads, compute)
        if "patches" in outputs:
            self.patch_head = nn.Dense(self.image[-1] * m.patch**2, dtype=FLOAT32)

    def _encoder(self) -> nn.Module:
        m, compute = self.model, self.compute
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
        hide_patches: tuple[jax.Array, float] | None = None,
        negatives: tuple[jax.Array, UInt32[Array, "b"], Bool[Array, "b"]] | None = None,
        rows: Bool[Array, "b"] | None = None,
        training: bool = False,
    ) -> dict[str, Any]:
        """What the losses need.

        Args:
            image: images, -1 to 1, or clips, or spectrograms.
            text, question, answer: token ids, 0 is padding.
            hidden_text: the text with some tokens hidden, to be filled in.
            hide_patches: a random key, and which share of the patches to hide and fill in.
            negatives: for matching: a random key, which texts are the same, and which rows have one.
            rows, training: for a ResNet: which examples count for its batch statistics, and whether those are taken.

        Returns:
            Those of `outputs`: "image_embedding" and "text_embedding" [b, e], "scale" [b], "offset" [b];
            "match_logits" [b, 3], "match_others" [b, 2]; "caption_logits" and "answer_logits" [b, t, v];
            "class_logits" [b, k]; "text_logits" [b, t, v]; "patches" and "patch_pixels" [b, n, p],
            "hidden_patches" [b, n].
        """
        needed = self.outputs
        outputs: dict[str, jax.Array] = {}
        given = {} if rows is None else {"rows": rows, "training": training}
        visual: Any = None if image is None else self._placed(self.vision(image, **given))
        words: Any = None
        if text is not None and hidden_text is not None:
            (features, filled), mask = encode_both(self.text, text, hidden_text)
            words, outputs["text_logits"] = (
                (features, mask),
                text_logits(filled, self.text.variables["params"]["embedding"]),
            )
        elif text is not None and "text" in required_encoders(self.model, needed):
            words = self._words(text)
        if has_contrastive(needed):
            outputs |= self._embeddings(visual, *words)
        if "match_logits" in needed:
            outputs |= self._matched(visual, words, outputs, negatives)
        if "caption_logits" in needed and text is not None:
            outputs["caption_logits"] = self.decoder(text, visual)
        fused: Any = None if question is None else self.fusion(visual, *self._words(question))
        if "answer_logits" in needed and answer is not None:
            outputs["answer_logits"] = self.decoder(answer, fused)
        if "class_logits" in needed:
            outputs["class_logits"] = self._classes(visual, words, fused)
        if "patches" in needed and image is not None:
            outputs |= self._patches(image, hide_patches)
        return outputs

    def embed_image(self, image: Float[Array, "b *f y x c"]) -> Float[Array, "b e"]:
        """Of length 1, in the space that images and texts share; float32."""
        return self._embedded_image(self._placed(self.vision(image)))

    def embed_text(self, text: Int[Array, "b t"]) -> Float[Array, "b e"]:
        """The same of texts."""
        return self._embedded_text(*self._words(text))

    def context(
        self, image: Float[Array, "b *f y x c"], question: Int[Array, "b t"] | None = None
    ) -> Float[Array, "b n d"]:
        """What the decoder looks at when it describes an image or, with a question, answers it."""
        visual = self._placed(self.vision(image))
        return visual if question is None else self.fusion(visual, *self._words(question))

    def prefill(self, context: Float[Array, "b n d"], length: int) -> tuple[Float[Array, "b v"], Cache]:
        """Begins a text; see TextDecoder.prefill."""
        return self.decoder.prefill(context, None, length)

    def step(self, token: Int[Array, "b"], cache: Cache) -> tuple[Float[Array, "b v"], Cache]:
        """Goes on with a text; see TextDecoder.step."""
        return self.decoder.step(token, cache)

    def written(self, text: Int[Array, "b t"], context: Float[Array, "b n d"]) -> Float[Array, "b t v"]:
        """The logits of a text that is known; see TextDecoder."""
        return self.decoder(text, context)

    def _placed(self, visual: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        """The features with their places, so that who looks at them by what they are sees where they are.

        As the keys of Carion et al. 2020 (arXiv:2005.12872, section A.4).
        """
        *_, rows, columns = self.grid
        places = sincos_2d(rows, columns, visual.shape[-1])
        if len(self.grid) == 3:
            places = (places[None] + sincos_1d(self.grid[0], visual.shape[-1])[:, None]).reshape(visual.shape[1:])
        return visual + places[None].astype(visual.dtype)

    def _words(self, text: Int[Array, "b t"]) -> tuple[Float[Array, "b t d"], Bool[Array, "b 1 1 t"]]:
        return self.text(text)

    def _embedded_image(self, visual: Float[Array, "b n d"]) -> Float[Array, "b e"]:
        return _unit(self.image_projection(self.image_pooling(visual).astype(jnp.float32)))

    def _embedded_text(self, words: Float[Array, "b t d"], mask: Bool[Array, "b 1 1 t"]) -> Float[Array, "b e"]:
        return _unit(self.text_projection(self.text_pooling(words, mask).astype(jnp.float32)))

    def _embeddings(self, visual: jax.Array, words: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
        image, text = self._embedded_image(visual), self._embedded_text(words, mask)
        scale = jnp.minimum(jnp.exp(self.log_scale), MAX_SCALE)
        outputs = {"image_embedding": image, "text_embedding": text, "scale": jnp.broadcast_to(scale, len(image))}
        if "offset" in self.outputs:
            outputs["offset"] = jnp.broadcast_to(self.offset, len(image))
        return outputs

    def _matched(
        self, visual: jax.Array, words: Any, embedded: dict[str, jax.Array], negatives: Any
    ) -> dict[str, jax.Array]:
        """Whether each example's own pair, and two that are hard to tell from it, belong together."""
        features, mask = words
        if negatives is None:  # as where parameters are made
            negatives = (jax.random.key(0), jnp.arange(len(visual), dtype=jnp.uint32), jnp.ones(len(visual), jnp.bool_))
        key, groups, there = negatives
        image, text = (jax.lax.stop_gradient(embedded[f"{name}_embedding"]) for name in ("image", "text"))
        scaled = image * jax.lax.stop_gradient(embedded["scale"])[:, None]
        keys = jax.random.split(key)
        other_text = hard_negatives(scaled, text, groups, there, keys[0])
        other_image = hard_negatives(text, scaled, groups, there, keys[1])
        pairs = (
            jnp.concatenate([visual, visual, visual[other_image]]),
            jnp.concatenate([features, features[other_text], features]),
            jnp.concatenate([mask, mask[other_text], mask]),
        )
        pooled = self.match_pooling(self.fusion(*pairs))
        logits = self.match_head(pooled.astype(jnp.float32)).reshape(MATCHED, -1).T
        return {"match_logits": logits, "match_others": jnp.stack([other_text, other_image], axis=1)}

    def _classes(self, visual: Any, words: Any, fused: Any) -> Float[Array, "b k"]:
        if self.model.classify == "text":
            pooled = self.class_pooling(*words)
        else:
            pooled = self.class_pooling(visual if self.model.classify == "image" else fused)
        return self.class_head(pooled.astype(jnp.float32))

    def _patches(self, image: jax.Array, hide: tuple[jax.Array, float] | None) -> dict[str, jax.Array]:
        patch = self.model.patch
        b, y, x, c = image.shape
        pixels = image.reshape(b, y // patch, patch, x // patch, patch, c).transpose(0, 1, 3, 2, 4, 5)
        pixels = pixels.reshape(b, -1, patch * patch * c)
        key, share = hide or (jax.random.key(0), 0.5)
        hidden = jax.random.uniform(key, pixels.shape[:2]) < jnp.float32(share)
        found = self.patch_head(self.vision(image, hidden).astype(jnp.float32))
        return {"patches": found, "patch_pixels": pixels, "hidden_patches": hidden}


def _unit(x: Float[Array, "b e"]) -> Float[Array, "b e"]:
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-12)
