"""Generators and visual tokenizers: images or clips from text, from references, from images to edit, from codes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float16, Int32, Shaped, UInt8

from mmjax import models, registry
from mmjax.config import SamplingConfig
from mmjax.export import frozen_text
from mmjax.export.loaded import LoadedModel, seeds_of, some_images, texts_of
from mmjax.models import text_encoder, visual_tokenizer
from mmjax.models.masked_generator import REFERENCE, TOKENIZER
from mmjax.models.spec import method
from mmjax.models.text_encoder import TEXT_ENCODER
from mmjax.sample import editing
from mmjax.sample.editing import images_of
from mmjax.sample.postprocess import to_uint8
from mmjax.types import UserError


class _Generating(LoadedModel):
    """A model of texts, maybe with a frozen text encoder."""

    def _text_features(self, text: Int32[np.ndarray, "n t"]) -> Float16[np.ndarray, "n t d"] | None:
        """Features of token ids by the frozen text encoder; None without one."""
        frozen = text_encoder.frozen(self.config)
        if frozen is None:
            return None
        encode = self._compiled(TEXT_ENCODER, lambda: frozen_text.encoder(frozen, self.compute))
        features: Float16[np.ndarray, "n t d"] = encode(self.components[TEXT_ENCODER], text)
        return features


class DirectImageGenerator(_Generating):
    """A model that generates one image per text deterministically."""

    def generate(
        self,
        prompts: Sequence[str],
        seed: int | Sequence[int] = 0,
        guidance: float | None = None,
        reference: Shaped[np.ndarray, "n *pixels 3"] | None = None,
    ) -> UInt8[np.ndarray, "n y x 3"]:
        """Generates an image for each prompt.

        Args:
            prompts: n texts, truncated to the config's text.length with a warning.
            seed, guidance: ignored; as for ImageGenerator.
            reference: n images to start from, float32 from -1 to 1 or uint8, of the config's size.

        Raises:
            UserError: for no prompts or anything but texts, and for references of the wrong shape or range, or if the
                model takes none.
        """
        texts, size = texts_of("prompts", prompts), self.config.data.size
        text = self.encode_text("prompt", texts)
        if reference is not None:
            if "reference" not in models.inputs(self.config):
                raise UserError("reference: this model was built without a vision encoder (model.reference is empty)")
            reference = images_of("reference", reference, (len(texts), size, size, 3))
        given = {"text": text, "text_features": self._text_features(text), "reference": reference}
        named = {name: value for name, value in given.items() if value is not None}

        def draw(params: Any, *values: jax.Array) -> Any:
            return self.apply(params, **dict(zip(named, values, strict=True)))["image"]

        return to_uint8(self._compiled(("draw", *named), lambda: draw)(self.params, *named.values()))


class ImageGenerator(_Generating):
    """A model that samples the visual tokens of images or clips."""

    def generate(
        self,
        prompts: Sequence[str],
        seed: int | Sequence[int] = 0,
        guidance: float | None = None,
        reference: Shaped[np.ndarray, "n *referred 3"] | None = None,
        *,
        image: Shaped[np.ndarray, "n *given 3"] | None = None,
        mask: Shaped[np.ndarray, "n *masked"] | None = None,
        variation: float | None = None,
        **sampling: Any,
    ) -> UInt8[np.ndarray, "n *pixels 3"]:
        """Samples an image or clip for each prompt, or edits given ones.

        Example i depends only on its prompt, its seed and its images, not on the rest of the batch. Of a given `image`,
        only a part is resampled: the masked part with `mask` (inpainting, outpainting), a random fraction of the visual
        tokens with `variation`, and the missing frames of a clip that is too short.

        Args:
            prompts: n texts, truncated to the config's text.length with a warning.
            seed: one per example, or the first of n consecutive ones.
            guidance: scale of classifier-free guidance by the text: 0 ignores the text, 1 samples without guidance;
                None: that of the config. References condition both passes.
            reference: n images of the reference tokenizer's size, float32 from -1 to 1 or uint8. May be omitted if the
                model was trained with reference_dropout.
            image: n images, or clips of at most the config's frames, float32 from -1 to 1 or uint8.
            mask: n images without channels, bool or uint8: True or 255 is resampled, False or 0 is kept.
            variation: fraction of visual tokens to resample, above 0 to 1.
            sampling: overrides of the config's `sampling`: steps, order, temperature, confidence_temperature, top_k,
                guidance_schedule, refinement_steps, refinement_temperature.

        Returns:
            uint8 [n, y, x, 3], clips [n, f, y, x, 3].

        Raises:
            UserError: for no prompts or anything but texts, images of the wrong shape or range, an invalid override, or
                a missing or unexpected reference.
        """
        texts = texts_of("prompts", prompts)
        text = self.encode_text("prompt", texts)
        conditions: dict[str, np.ndarray] = self._reference(reference, len(texts))
        if (features := self._text_features(text)) is not None:
            conditions["text_features"] = features
        seeds = seeds_of(seed, len(texts))
        guidance = self.config.sampling.guidance if guidance is None else guidance
        config = self._changed("sampling", sampling | {"guidance": guidance}).sampling
        data, model_fns, tokenizer = self.config.data, self.model_fns, self.components[TOKENIZER]
        begin = editing.start(model_fns.grid, data.size, data.frames, seeds, image, mask, variation)
        codes = np.zeros(begin.masked.shape, np.int32)
        if begin.image is not None:
            codes = self._compiled("encode")(tokenizer, begin.image)
        inputs = (text if guidance > 0 else np.zeros_like(text), codes, begin.masked, seeds)
        constants = self.params, tokenizer, np.float32(guidance)
        images = self._sampler(config, tuple(conditions))(constants, *inputs, *conditions.values())
        return editing.keep(to_uint8(images), begin)

    def _reference(self, reference: Any, count: int) -> dict[str, Int32[np.ndarray, "n *grid"]]:
        """The reference codes as a condition; empty to sample without references."""
        config = self.config.component(REFERENCE)
        if config is None:
            if reference is not None:
                raise UserError(
                    "reference: this model takes none, since it has no reference_tokenizer; it takes image, and "
                    "mask or variation"
                )
            return {}
        size, frames = config.data.size, config.data.frames
        shape = (count, *([frames] if frames > 1 else []), size, size, 3)
        if reference is None:
            if getattr(self.config.model, "reference_dropout", 0.0) > 0:
                return {}
            raise UserError(f"reference: this model never learned to draw without one; give it {list(shape)}")
        images = images_of("reference", reference, shape)
        return {"reference_codes": self._compiled("encode_reference")(self.components[REFERENCE], images)}

    def _sampler(self, sampling: SamplingConfig, conditions: tuple[str, ...]) -> Any:
        """The compiled sampler with these conditions besides the text."""
        # The guidance scale is an argument of the program; only whether there is guidance is compiled in.
        sampling = dataclasses.replace(sampling, guidance=1.0 if sampling.guidance in (0, 1) else 2.0)

        def make() -> Any:
            sample = registry.find("sampler", sampling.kind, "sampling.kind").make(self.model_fns, sampling)

            def program(constants: Any, text: Any, codes: Any, masked: Any, seeds: Any, *more: jax.Array) -> Any:
                params, tokenizer, scale = constants
                named = dict(zip(conditions, more, strict=True))
                return sample(params, tokenizer, text, codes, masked, seeds, scale, **named)

            return program

        return self._compiled((sampling, conditions), make)


class ImageTokenizer(LoadedModel):
    """A visual tokenizer. Images are uint8, or float32 from -1 to 1, of the config's size."""

    def encode(self, images: Shaped[np.ndarray, "n *pixels 3"]) -> Int32[np.ndarray, "n *grid"]:
        """Encodes images or clips to grids of codes from 0 to the product of the levels.

        Raises:
            UserError: for images of the wrong shape or range.
        """
        images = some_images(images, models.inputs(self.config)["image"].shape[1:])
        return self._method("encode")(self.params, images)

    def decode(self, codes: Shaped[np.ndarray, "n *grid"]) -> UInt8[np.ndarray, "n *pixels 3"]:
        """Decodes grids of integer codes to images or clips.

        Raises:
            UserError: for another grid, or codes out of range.
        """
        grid, count = visual_tokenizer.grid(self.config), int(np.prod(visual_tokenizer.levels(self.config)))
        codes = np.asarray(codes)
        if codes.ndim == 0 or codes.shape[1:] != grid or not len(codes) or not np.issubdtype(codes.dtype, np.integer):
            raise UserError(f"codes: must be whole numbers {['n', *grid]}, not {codes.dtype} {list(codes.shape)}")
        if codes.min() < 0 or codes.max() >= count:
            raise UserError(f"codes: must be from 0 to {count - 1}, not {codes.min()} to {codes.max()}")
        images = self._method("decode")(self.params, codes.astype(np.int32))
        return to_uint8(visual_tokenizer.as_in_data(self.config, images))

    def _method(self, name: str) -> Any:
        return self._compiled(name, lambda: method(models.build(self.config, self.compute), name))
