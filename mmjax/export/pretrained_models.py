"""Pretrained models from folders in Hugging Face's layout: embeddings, zero-shot classification, latents of images."""

import dataclasses
import functools
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, Int32, Shaped, UInt8

from mmjax import pretrained
from mmjax.data.tokenizer_json import JsonTokenizer, load_json_tokenizer
from mmjax.export.loaded import texts_of
from mmjax.export.lora import with_loras
from mmjax.files import UNREADABLE, read_file
from mmjax.nn.compute import DEFAULT
from mmjax.pretrained.clip import OLD_END
from mmjax.pretrained.images import ImageSettings, read_image_settings
from mmjax.pretrained.pooling import Pooling, read_pooling, unit
from mmjax.pretrained.safetensors_files import CONFIG, MAX_JSON
from mmjax.pretrained.weights import FILE, weights_in
from mmjax.sample.chunks import per_example
from mmjax.sample.editing import images_of
from mmjax.sample.postprocess import to_uint8
from mmjax.types import Params, UserError

LONGEST = 512  # tokens, where neither the config nor the tokenizer says
SHORTEST = 16  # texts are padded to a power of two from this one on, so that few programs are compiled

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class PretrainedModel:
    """A pretrained model.

    Attributes:
        checkpoint: its folder, family and config.
        params: its parameters, on the device.
    """

    checkpoint: pretrained.Checkpoint
    params: Params

    @functools.cached_property
    def module(self) -> Any:
        """Its Flax module."""
        return self.checkpoint.spec.build(self.checkpoint.config, DEFAULT)

    @functools.cached_property
    def _programs(self) -> dict[str, Any]:
        return {}

    def _compiled(self, name: str, function: Callable[..., Any]) -> Any:
        if name not in self._programs:
            self._programs[name] = per_example(function)
        return self._programs[name]


class PretrainedTextEncoder(PretrainedModel):
    """A model that encodes texts."""

    @functools.cached_property
    def tokenizer(self) -> JsonTokenizer:
        """Its text tokenizer."""
        return tokenizer_of(self.checkpoint)

    @functools.cached_property
    def pooling(self) -> Pooling | None:
        """How sentence-transformers pools its features; None: as its family does."""
        return read_pooling(self.checkpoint.folder)

    @property
    def _text_config(self) -> Any:
        return text_config(self.checkpoint)

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        most = getattr(self._text_config, "max_position_embeddings", 0)
        limits = (most, self.tokenizer.longest, self.pooling.longest if self.pooling else 0)
        return min(filter(None, limits), default=LONGEST)

    def tokens(self, texts: Sequence[str]) -> tuple[Int32[np.ndarray, "n t"], Bool[np.ndarray, "n t"]]:
        """Token ids of texts and their mask, False on padding; longer texts are cut with a warning."""
        texts = texts_of("texts", texts)
        lengths = {text: self.tokenizer.length(text) for text in dict.fromkeys(texts)}
        for text in (text for text, length in lengths.items() if length > self.longest):
            logger.warning("text %r has more than %d tokens; what goes beyond is cut", text[:60], self.longest)
        needed = max(SHORTEST, 1 << (max(lengths.values()) - 1).bit_length())
        length = self.longest if self.checkpoint.spec.padded else min(needed, self.longest)
        ids, mask = self.tokenizer.encode_with_mask(texts, length)
        if ids.max() >= self._text_config.vocab_size:
            raise UserError(_foreign_ids(self.checkpoint, int(ids.max())))
        return ids, mask

    def encode_text(self, texts: Sequence[str]) -> tuple[Float32[np.ndarray, "n t d"], Bool[np.ndarray, "n t"]]:
        """The features of each token, and their mask, False on padding.

        Raises:
            UserError: for anything but texts.
        """
        ids, mask = self.tokens(texts)

        def encode(params: Params, ids: jax.Array, mask: jax.Array) -> jax.Array:
            tokens: jax.Array = self.module.apply({"params": params}, ids, mask, method="encode_text").tokens
            return tokens

        return self._compiled("encode_text", encode)(self.params, ids, mask), mask

    def embed_text(self, texts: Sequence[str]) -> Float32[np.ndarray, "n e"]:
        """Embeds texts as unit vectors; as sentence-transformers does, if the folder has its files.

        Raises:
            UserError: for anything but texts.
        """
        pooling = self.pooling

        def embed(params: Params, ids: jax.Array, mask: jax.Array) -> jax.Array:
            encoded = self.module.apply({"params": params}, ids, mask, method="encode_text")
            return pooling(encoded.tokens, mask) if pooling else unit(encoded.pooled)

        return self._compiled("embed_text", embed)(self.params, *self.tokens(texts))


class PretrainedImageEncoder(PretrainedModel):
    """A model that encodes images: uint8 [y, x, 3] of any sizes, or an array of several."""

    @functools.cached_property
    def images(self) -> ImageSettings:
        """How images are prepared."""
        settings = read_image_settings(self.checkpoint.folder)
        patch = self.checkpoint.spec.vision(self.checkpoint.config).patch_size
        if min((*settings.size, *settings.crop), default=patch) < patch:
            raise UserError(f"{self.checkpoint.folder}: makes images smaller than a patch of {patch} pixels")
        return settings

    def embed_image(self, images: Iterable[np.ndarray]) -> Float32[np.ndarray, "n e"]:
        """Embeds images as unit vectors.

        Raises:
            UserError: for anything but images.
        """
        return self._embedded(self._prepared(images))

    def embed_resized(self, images: UInt8[np.ndarray, "n y x 3"]) -> Float32[np.ndarray, "n e"]:
        """Embeds images, made of one size by `images.resized`, as unit vectors."""
        return self._embedded(self.images.normalized(images))

    def _embedded(self, images: Float32[np.ndarray, "n y x 3"]) -> Float32[np.ndarray, "n e"]:
        def embed(params: Params, image: jax.Array) -> jax.Array:
            return unit(self.module.apply({"params": params}, image, method="encode_image").pooled)

        embedded: Float32[np.ndarray, "n e"] = self._compiled("embed_image", embed)(self.params, images)
        return embedded

    def encode_image(self, images: Iterable[np.ndarray]) -> Float32[np.ndarray, "n p d"]:
        """The features of each image's class token and registers, if it has them, and patches.

        Raises:
            UserError: for anything but images.
        """

        def encode(params: Params, image: jax.Array) -> jax.Array:
            tokens: jax.Array = self.module.apply({"params": params}, image, method="encode_image").tokens
            return tokens

        return self._compiled("encode_image", encode)(self.params, self._prepared(images))

    def _prepared(self, images: Iterable[Any]) -> Float32[np.ndarray, "n y x 3"]:
        given = list(images) if isinstance(images, Iterable) else []
        if not given:
            raise UserError("images: give a list of at least one image, uint8 [y, x, 3]")
        for i, image in enumerate(given):
            shape: tuple[int, ...] = getattr(image, "shape", ())
            dtype = getattr(image, "dtype", type(image).__name__)
            if len(shape) != 3 or shape[-1] != 3 or 0 in shape or dtype != np.uint8:
                raise UserError(
                    f"images: each must be uint8 [y, x, 3], and number {i} (from 0) is {dtype} {list(shape)}"
                )
        return self.images.prepare([np.asarray(image) for image in given])


class PretrainedDualEncoder(PretrainedTextEncoder, PretrainedImageEncoder):
    """A model that embeds texts and images in one space."""

    def classify(
        self, images: Iterable[np.ndarray], names: Sequence[str], template: str = "a photo of a {}."
    ) -> Float32[np.ndarray, "n k"]:
        """Zero-shot classification (Radford et al. 2021, arXiv:2103.00020, section 3.1): probabilities of classes.

        Those of CLIP sum to 1; those of SigLIP are each its own.

        Args:
            names: of k classes.
            template: text of a class, with {} for its name.

        Raises:
            UserError: for anything but images and names, or a template without {}.
        """
        if not isinstance(template, str) or "{}" not in template:
            raise UserError(f"template: must have {{}} for the name of a class, and is {template!r}")
        texts = self.embed_text([template.replace("{}", name) for name in texts_of("names", names, "cat")])
        cosines = jnp.asarray(self.embed_image(images) @ texts.T)
        logits = self.module.apply({"params": self.params}, cosines, method="logits")
        independent = "logit_bias" in self.params
        return np.asarray(jax.nn.sigmoid(logits) if independent else jax.nn.softmax(logits, axis=1))


class PretrainedAutoencoder(PretrainedModel):
    """An autoencoder of images. Images are uint8, or float32 from -1 to 1; latents are of about unit variance."""

    def encode(self, images: Shaped[np.ndarray, "n y x 3"]) -> Float32[np.ndarray, "n v u c"]:
        """Encodes images to latents.

        Raises:
            UserError: for anything but images of one size, with sides that are multiples of the model's stride.
        """
        images, stride = images_of("images", images), self.checkpoint.config.stride
        if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape or any(n % stride for n in images.shape[1:3]):
            raise UserError(
                f"images: must be [n, y, x, 3], at least one, with sides that are multiples of {stride} pixels, not "
                f"{list(images.shape)}"
            )
        return self._compiled("encode", self._method("encode"))(self.params, images)

    def decode(self, latents: Float32[np.ndarray, "n v u c"]) -> UInt8[np.ndarray, "n y x 3"]:
        """Decodes latents to images.

        Raises:
            UserError: for anything but latents.
        """
        latents, channels = np.asarray(latents), self.checkpoint.config.channels
        if latents.dtype != np.float32 or latents.ndim != 4 or latents.shape[-1] != channels or 0 in latents.shape:
            raise UserError(
                f"latents: must be float32 [n, v, u, {channels}], at least one, not {latents.dtype} "
                f"{list(latents.shape)}"
            )
        return to_uint8(self._compiled("decode", self._method("decode"))(self.params, latents))

    def _method(self, name: str) -> Callable[[Params, jax.Array], jax.Array]:
        def call(params: Params, x: jax.Array) -> jax.Array:
            result: jax.Array = self.module.apply({"params": params}, x, method=name)
            return result

        return call


def text_config(checkpoint: pretrained.Checkpoint) -> Any:
    """The config of the text encoder."""
    return checkpoint.spec.text(checkpoint.config)


def tokenizer_of(checkpoint: pretrained.Checkpoint) -> JsonTokenizer:
    """The text tokenizer of a checkpoint.

    Raises:
        UserError: where it is missing or damaged, or that of another model.
    """
    tokenizer, config = load_json_tokenizer(checkpoint.folder), text_config(checkpoint)
    if tokenizer.size > config.vocab_size:
        raise UserError(_foreign_ids(checkpoint, tokenizer.size - 1))
    end = getattr(config, "eos_token_id", OLD_END)
    if end not in (OLD_END, tokenizer.end):
        raise UserError(
            f"{checkpoint.folder}: the tokenizer ends a text by {tokenizer.end}, and the model finds its end by "
            f"eos_token_id {end}; is it of another model?"
        )
    return tokenizer


def _foreign_ids(checkpoint: pretrained.Checkpoint, largest: int) -> str:
    return (
        f"{checkpoint.folder}: the tokenizer has ids up to {largest}, and the model an embedding of "
        f"{text_config(checkpoint).vocab_size}; is it of another model?"
    )


CLASSES = {
    ("latents",): PretrainedAutoencoder,
    ("text",): PretrainedTextEncoder,
    ("image",): PretrainedImageEncoder,
    ("text", "image"): PretrainedDualEncoder,
}


def is_pretrained(folder: Path) -> bool:
    """Whether a folder has a config.json in Hugging Face's layout, or weights that are none of mmjax's."""
    folder = pretrained.model_folder(folder)
    if not os.path.exists(folder / CONFIG):
        return bool(weights_in(folder)) and not os.path.exists(folder / FILE)
    try:
        values = json.loads(read_file(folder / CONFIG, MAX_JSON))
    except (OSError, UserError, *UNREADABLE):
        return False
    return isinstance(values, dict) and not values.keys().isdisjoint(pretrained.KINDS) and "config" not in values


def load_pretrained(
    folder: Path, plugins: Iterable[str] = (), lora: Mapping[str | Path, float] | None = None
) -> PretrainedModel:
    """Loads a folder in Hugging Face's layout; see pretrained.open_checkpoint.

    Args:
        lora: LoRAs and their weights; see with_loras.
    """
    checkpoint = pretrained.open_checkpoint(folder, plugins)
    params = pretrained.load(checkpoint)
    if lora:
        params = with_loras(params, lora, checkpoint)
    return CLASSES[checkpoint.spec.encodes](checkpoint, params)
