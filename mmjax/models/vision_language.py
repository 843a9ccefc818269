"""Images and texts in one model: a shared embedding, matching, classes, captions and answers.

A vision encoder and a text encoder, as in CLIP (Radford et al. 2021, arXiv:2103.00020); a fusion of the two, as in
ALBEF (Li et al. 2021, arXiv:2107.07651); a text decoder that looks at what they give, as in BLIP (Li et al. 2022,
arXiv:2201.12086) and CoCa (Yu et al. 2022, arXiv:2205.01917). Only what the config's objective trains is built.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from mmjax.config import Config, model_fields
from mmjax.models import fusion
from mmjax.models.needs import (
    grid,
    has_contrastive,
    has_decoder,
    image_shape,
    inputs,
    required_encoders,
    sharding_rules,
    uses_fusion,
)
from mmjax.models.resnet import ResNet
from mmjax.models.text_decoder import Cache, TextDecoder, gather_cache
from mmjax.models.text_encoder import TextEncoder, encode_both, text_logits
from mmjax.models.video_encoder import VideoEncoder
from mmjax.models.vision_encoder import VisionEncoder
from mmjax.nn.hard_negatives import hard_negatives
from mmjax.nn.partitioner import UNSHARDED, Partitioner
from mmjax.nn.pooling import AttentionPooling
from mmjax.nn.positions import sincos_1d, sincos_2d
from mmjax.types import FLOAT32

FIRST_SCALE = 1 / 0.07  # of contrastive similarities (Radford et al. 2021, section 2.5)
FIRST_SIGMOID = (10.0, -10.0)  # scale and offset (Zhai et al. 2023, section 3.2)
MOST_SCALE = 100.0
MATCHED = 3  # pairs of an example that matching judges

__all__ = ["ModelFns", "VisionLanguage", "build", "inputs", "model_fns", "sharding_rules"]


def build(config: Config, partitioner: Partitioner = UNSHARDED) -> "VisionLanguage":
    assert isinstance(config.model, model_fields.VisionLanguageConfig)
    terms, shape = tuple(config.objective.terms), image_shape(config.data)
    return VisionLanguage(config.model, config.text.vocabulary, terms, shape, grid(config), partitioner)


class VisionLanguage(nn.Module):
    """Images and texts in; what each of the objective's terms needs out.

    Attributes:
        model: the configuration.
        vocabulary: number of text token ids.
        terms: of the objective, which decide what is built.
        image: shape of what the vision encoder sees: [y, x, c], or of clips [f, y, x, c].
        grid: of the visual tokens; see the function of that name.
        partitioner: of the activations on the devices.
    """

    model: model_fields.VisionLanguageConfig
    vocabulary: int
    terms: tuple[str, ...]
    image: tuple[int, ...]
    grid: tuple[int, ...]
    partitioner: Partitioner = UNSHARDED

    def setup(self) -> None:
        m, dtype, terms = self.model, jnp.dtype(self.model.dtype), self.terms
        seen = required_encoders(m, terms)
        common: dict[str, Any] = {"dtype": dtype, "kernel": m.attention, "partitioner": self.partitioner}
        stacked: dict[str, Any] = {"remat": m.remat, "unroll": m.unroll, "policy": m.remat_policy}
        if "image" in seen:
            self.vision: Any = self._encoder(common, stacked)
        if "text" in seen:
            self.text = TextEncoder(self.vocabulary, m.width, m.text_layers, m.heads, **common, unroll=m.unroll)
        if has_contrastive(terms):
            self.image_pooling = AttentionPooling(m.heads, dtype)
            self.text_pooling = AttentionPooling(m.heads, dtype)
            self.image_projection = nn.Dense(m.embedding, use_bias=False, dtype=FLOAT32)
            self.text_projection = nn.Dense(m.embedding, use_bias=False, dtype=FLOAT32)
            scale, offset = FIRST_SIGMOID if "sigmoid_contrastive" in terms else (FIRST_SCALE, 0.0)
            self.log_scale = self.param("log_scale", nn.initializers.constant(jnp.log(scale)), ())
            if "sigmoid_contrastive" in terms:
                self.offset = self.param("offset", nn.initializers.constant(offset), ())
        if uses_fusion(m, terms):
            self.fusion = fusion.make_fusion(m.fusion, m.fusion_layers, m.heads, **common, **stacked)
        if "matching" in terms:
            self.match_pooling = AttentionPooling(m.heads, dtype)
            self.match_head = nn.Dense(1, dtype=FLOAT32)
        if "classification" in terms:
            self.class_pooling = AttentionPooling(m.heads, dtype)
            self.class_head = nn.Dense(m.classes, dtype=FLOAT32)
        if has_decoder(terms):
            self.decoder = TextDecoder(self.vocabulary, m.width, m.decoder_layers, m.heads, **common, **stacked)
        if "masked_patch_modeling" in terms:
            self.patch_head = nn.Dense(self.image[-1] * m.patch**2, dtype=FLOAT32)

    def _encoder(self, common: dict[str, Any], stacked: dict[str, Any]) -> nn.Module:
        m = self.model
        if m.encoder == "resnet":
            return ResNet(m.width, convolution=m.convolution, dtype=common["dtype"], partitioner=self.partitioner)
        shape: dict[str, Any] = {
            "patch": m.patch,
            "width": m.width,
            "layers": m.layers,
            "heads": m.heads,
            "convolution": m.convolution,
        }
        if len(self.image) == 4:
            return VideoEncoder(time=m.time, **shape, **common, **stacked)
        own: dict[str, Any] = {"registers": m.registers, "stem": m.stem}
        return VisionEncoder(masking="masked_patch_modeling" in self.terms, **shape, **own, **common, **stacked)

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
        """What the objective's terms need.

        Args:
            image: images, -1 to 1, or clips, or spectrograms.
            text, question, answer: token ids, 0 is padding.
            hidden_text: the text with some tokens hidden, to be filled in.
            hide_patches: a random key, and which share of the patches to hide and fill in.
            negatives: for matching: a random key, which texts are the same, and which rows have one.
            rows, training: for a ResNet: which examples count for its batch statistics, and whether those are taken.

        Returns:
            By term: "image_embedding" and "text_embedding" [b, e], "scale" [b], "offset" [b]; "match_logits" [b, 3],
            "match_others" [b, 2]; "caption_logits" and "answer_logits" [b, t, v]; "class_logits" [b, k];
            "text_logits" [b, t, v]; "patches", "patch_pixels" [b, n, p], "hidden_patches" [b, n].
        """
        terms = self.terms
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
        elif text is not None and "text" in required_encoders(self.model, terms):
            words = self._words(text)
        if has_contrastive(terms):
            outputs |= self._embeddings(visual, *words)
        if "matching" in terms:
            outputs |= self._matched(visual, words, outputs, negatives)
        if "captioning" in terms and text is not None:
            outputs["caption_logits"] = self.decoder(text, visual)
        fused: Any = None if question is None else self.fusion(visual, *self._words(question))
        if "answering" in terms and answer is not None:
            outputs["answer_logits"] = self.decoder(answer, fused)
        if "classification" in terms:
            outputs["class_logits"] = self._classes(visual, words, fused)
        if "masked_patch_modeling" in terms and image is not None:
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
        """Begins a text; see TextDecoder.begin."""
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
        scale = jnp.minimum(jnp.exp(self.log_scale), MOST_SCALE)
        outputs = {"image_embedding": image, "text_embedding": text, "scale": jnp.broadcast_to(scale, len(image))}
        if "sigmoid_contrastive" in self.terms:
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


@dataclass(frozen=True)
class ModelFns:
    """What describing needs of a model.

    Attributes:
        context: (params, image, question or None) -> what the text is about.
        begin: (params, context, length) -> logits of the first token, and a cache.
        step: (params, token, cache) -> logits of the next token, and the cache.
        gather_cache: (cache, rows) -> the cache of these rows.
        embed_image, embed_text: (params, image or text) -> its embedding.
        look: (params, image, text, question or None) -> where the text decoder looks for each token of a text that is
            known, [b, t, n].
    """

    context: Callable[..., jax.Array]
    prefill: Callable[..., Any]
    step: Callable[..., Any]
    gather_cache: Callable[..., Any]
    embed_image: Callable[..., jax.Array]
    embed_text: Callable[..., jax.Array]
    attention_maps: Callable[..., jax.Array]


def model_fns(config: Config, partitioner: Partitioner = UNSHARDED) -> ModelFns:
    module = build(config, partitioner)

    def method(name: str) -> Callable[..., Any]:
        return lambda params, *seen: module.apply({"params": params}, *seen, method=name)

    def attention_maps(
        params: Any, image: jax.Array, text: Int[Array, "b t"], question: Int[Array, "b q"] | None = None
    ) -> Float[Array, "b t n"]:
        context = method("context")(params, image, question)
        _, kept = module.apply({"params": params}, text, context, method="written", mutable=["attention_maps"])
        ((q, k),) = kept["attention_maps"]["decoder"]["stack"]["block"]["cross_attention"]["queries_keys"]
        scaled = q.astype(jnp.float32) * jnp.float32(q.shape[-1] ** -0.5)
        logits = jnp.einsum("lbthk,lbnhk->lhbtn", scaled, k.astype(jnp.float32))  # l: layers
        return jnp.mean(jax.nn.softmax(logits), axis=(0, 1))

    return ModelFns(
        context=method("context"),
        prefill=method("prefill"),
        step=method("step"),
        gather_cache=gather_cache,
        embed_image=method("embed_image"),
        embed_text=method("embed_text"),
        attention_maps=attention_maps,
    )
