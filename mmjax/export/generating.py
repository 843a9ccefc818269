"""What a trained generator does: images or clips from text, and from what of them is given."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int32, Shaped, UInt8

from mmjax import models, registry
from mmjax.config import SamplingConfig, resolve, to_dict
from mmjax.export import frozen_text
from mmjax.export.loaded import LoadedModel
from mmjax.export.validation import seeds_of, texts_of
from mmjax.models.masked_generator import REFERENCE, TEXT_ENCODER, TOKENIZER
from mmjax.sample import editing
from mmjax.sample.chunks import per_example
from mmjax.sample.direct import make_draw
from mmjax.sample.editing import images_of
from mmjax.sample.postprocess import to_uint8
from mmjax.types import UserError


class DirectImageGenerator(LoadedModel):
    """A model that draws one image a text, without randomness."""

    def generate(
        self,
        prompts: Sequence[str],
        seed: int | Sequence[int] = 0,
        guidance: float | None = None,
        reference: Shaped[np.ndarray, "n *pixels 3"] | None = None,
    ) -> UInt8[np.ndarray, "n y x 3"]:
        """Draws an image for each prompt.

        Args:
            prompts: n texts; what goes beyond the config's text.length is cut, and a warning says so.
            seed, guidance: change nothing; they are those of models that sample.
            reference: n images to start from, float32 from -1 to 1, or uint8 such as these are, of the config's size.

        Raises:
            UserError: for no prompts or other than texts, and for references of the wrong shape or range, or where the
                model takes none.
        """
        texts, size = texts_of("prompts", prompts), self.config.data.size
        text = self.encode_text("prompt", texts)
        if reference is not None:
            if "reference" not in models.inputs(self.config):
                raise UserError("reference: this model was built without a vision encoder (model.reference is empty)")
            reference = images_of("reference", reference, (len(texts), size, size, 3))
        return self._draw(self.params, text, reference)

    @functools.cached_property
    def _draw(self) -> Any:
        return make_draw(self.apply)


class ImageGenerator(LoadedModel):
    """A model that samples images or clips, by visual tokens."""

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
        """Samples an image, or a clip, for each prompt.

        Image i depends on its prompt and its seed alone, bit for bit, not on what else is sampled. Given an `image`,
        what is not to be sampled is kept: with a `mask` what is not masked (inpainting, outpainting), with `variation`
        all but a fraction of the visual tokens, and of a clip that is too short the frames that it has.

        Args:
            prompts: n texts; what goes beyond the config's text.length is cut, and a warning says so.
            seed: one an example, or the first of n consecutive ones.
            guidance: classifier-free guidance scale: 0 ignores the text, 1 samples as trained; None: as the config
                says. Only the text is dropped: the reference is seen with and without it.
            reference: n images, float32 from -1 to 1 or uint8, of the size of the config's reference_tokenizer, such
                as those to be enlarged. None: from the text alone, if the model was trained to (reference_dropout).
            image: n images, or clips of at most the config's frames, as `reference`, of the config's size.
            mask: n images without colors, bool, or uint8 of nothing but 0 and 255: True or 255 is sampled.
            variation: the fraction that is sampled, above 0 to 1.
            sampling: other fields of the config's `sampling`: steps, order, temperature, confidence_temperature,
                top_k, guidance_schedule, refinement_steps, refinement_temperature.

        Returns:
            uint8 [n, y, x, 3], clips [n, f, y, x, 3].

        Raises:
            UserError: for no prompts or other than texts, for images of the wrong shape or range, and for what this
                kind of model does not take, or lacks.
        """
        texts = texts_of("prompts", prompts)
        text = self.encode_text("prompt", texts)
        given: dict[str, np.ndarray] = self._reference(reference, len(texts))
        if TEXT_ENCODER in self.components:
            frozen = self.components[TEXT_ENCODER]
            given["text_features"] = self._text_features(frozen, text)
        seeds = seeds_of(seed, len(texts))
        guidance = self.config.sampling.guidance if guidance is None else guidance
        chosen = self._sampling(sampling, guidance)
        data, model_fns, tokenizer = self.config.data, self.model_fns, self.components[TOKENIZER]
        begin = editing.start(model_fns.grid, data.size, data.frames, seeds, image, mask, variation)
        codes = np.zeros(begin.masked.shape, np.int32)
        if begin.image is not None:
            codes = self._encode(tokenizer, begin.image)
        seen = (text if guidance > 0 else np.zeros_like(text), codes, begin.masked, seeds)
        constants = self.params, tokenizer, np.float32(guidance)
        images = self._program(chosen, tuple(given))(constants, *seen, *given.values())
        return editing.keep(to_uint8(images), begin)

    def _reference(self, reference: Any, count: int) -> dict[str, Int32[np.ndarray, "n *grid"]]:
        """What a masked generator is told of its references; nothing where it is to draw without."""
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
        return {"reference_codes": self._encode_reference(self.components[REFERENCE], images)}

    def _sampling(self, changes: dict[str, Any], guidance: float) -> SamplingConfig:
        """How to sample, checked as a config is."""
        tree = to_dict(self.config)
        return resolve(tree | {"sampling": tree["sampling"] | changes | {"guidance": guidance}}).sampling

    def _program(self, sampling: SamplingConfig, conditions: tuple[str, ...]) -> Any:
        """The compiled sampler; its conditions besides the text are handed to it by these names."""
        # Guidance is an argument of the program; only whether there is any is compiled in.
        sampling = dataclasses.replace(sampling, guidance=1.0 if sampling.guidance in (0, 1) else 2.0)
        if (sampling, conditions) not in self._programs:
            sample = registry.find("sampler", sampling.kind, "sampling.kind").make(self.model_fns, sampling)

            def drawn(constants: Any, text: Any, codes: Any, masked: Any, seeds: Any, *given: jax.Array) -> Any:
                params, tokenizer, scale = constants
                named = dict(zip(conditions, given, strict=True))
                return sample(params, tokenizer, text, codes, masked, seeds, scale, **named)

            self._programs[sampling, conditions] = per_example(drawn)
        return self._programs[sampling, conditions]

    @functools.cached_property
    def _programs(self) -> dict[tuple[SamplingConfig, tuple[str, ...]], Any]:
        return {}

    @functools.cached_property
    def _encode(self) -> Any:
        return per_example(self.model_fns.encode)

    @functools.cached_property
    def _text_features(self) -> Any:
        theirs = self.config.component(TEXT_ENCODER)
        assert theirs is not None
        return per_example(frozen_text.encoder(theirs, self.compute))

    @functools.cached_property
    def _encode_reference(self) -> Any:
        assert self.model_fns.encode_reference is not None
        return per_example(self.model_fns.encode_reference)
