"""What users of a trained model call: drawing, here, and describing, which it inherits."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int32, Shaped, UInt8

from mmjax import models
from mmjax.config import Config, DirectGeneratorConfig, MaskedGeneratorConfig, resolve, to_dict
from mmjax.export import frozen_text
from mmjax.export.describing import DescribingModel
from mmjax.export.frozen_text import FrozenText
from mmjax.export.validation import seeds_of, texts_of
from mmjax.models import masked_generator
from mmjax.sample import editing
from mmjax.sample.chunks import in_chunks
from mmjax.sample.direct import draw
from mmjax.sample.editing import images_of
from mmjax.sample.masked import MaskGITDecoding, make_sampler
from mmjax.sample.postprocess import to_uint8
from mmjax.types import Params, UserError


@dataclasses.dataclass(frozen=True)
class GenerativeModel(DescribingModel):
    """A trained model.

    Attributes:
        config: its config; the attention kernel "cudnn" is "xla" where there is no GPU, and so is "splash" always.
        params: its parameters, on the device.
        tokenizer: from text to tokens.
        visual_tokenizer: parameters of the visual tokenizer of a masked generator, on the device.
        reference_tokenizer: the same for its reference images, where it takes any.
        text_encoder: parameters of the text encoder of a masked generator that was trained with a frozen one.
    """

    visual_tokenizer: Params = dataclasses.field(default_factory=dict)
    reference_tokenizer: Params = dataclasses.field(default_factory=dict)
    text_encoder: Params = dataclasses.field(default_factory=dict)

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
        """Draws an image, or a clip, for each prompt.

        A direct generator gives one image a prompt, whatever the seed. A masked generator draws at random: image i
        depends on its prompt and its seed alone, not on what else is drawn. Given an `image`, it keeps what is not
        asked for anew: with a `mask` what is masked (inpainting, outpainting), with `variation` a share of the visual
        tokens here and there, and of a clip that is too short the frames it lacks.

        Args:
            prompts: n texts; what goes beyond the config's text.length is cut, and a warning says so.
            seed: one an example, or the first of n consecutive ones.
            guidance: how closely to follow the text: 0 ignores it, 1 samples as trained; None: as the config says. It
                is of the text alone: a masked generator looks at the reference with the text and without.
            reference: n images to start from, float32 from -1 to 1, or uint8 such as these are: for a direct
                generator of the config's size, for a masked generator with a `reference` of that config's size, such
                as those to be enlarged. Without one it draws from the text, if it learned to (reference_dropout).
            image: for a masked generator: n images, or clips of at most the config's frames, as `reference`.
            mask: n images without colors, bool, or uint8 of nothing but 0 and 255: True or 255 is drawn anew.
            variation: the share drawn anew, above 0 to 1.
            sampling: other fields of the config's `sampling`: steps, order, temperature, confidence_temperature, top_k,
                guidance_schedule.

        Returns:
            uint8 [n, y, x, 3], clips [n, f, y, x, 3].

        Raises:
            UserError: for no prompts or other than texts, for images of the wrong shape or range, and for what this
                kind of model does not take, or lacks.
        """
        inputs = models.inputs(self.config)
        if not isinstance(self.config.model, DirectGeneratorConfig | MaskedGeneratorConfig):
            raise UserError(
                f"{self.config.name or 'model'}: a model of kind {self.config.model.kind} does not draw from text; "
                "name a model of kind masked_generator or direct"
            )
        texts = texts_of("prompts", prompts)
        masked = isinstance(self.config.model, MaskedGeneratorConfig)
        text = self._encoded("prompt", texts)
        if not masked:
            if sampling or any(value is not None for value in (image, mask, variation)):
                raise UserError("image, mask, variation and sampling are for masked generators; this one is direct")
            size = self.config.data.size
            if reference is not None:
                if "reference" not in inputs:
                    raise UserError(
                        "reference: this model was built without a vision encoder (model.reference is false)"
                    )
                reference = images_of("reference", reference, (len(texts), size, size, 3))
            return draw(self.apply, self.params, text, reference)
        given: dict[str, np.ndarray] = self._reference(reference, len(texts))
        if self.config.text_encoder is not None:
            given["text_features"] = in_chunks(lambda part: self._text_features(self.text_encoder, part), text)
        seeds = seeds_of(seed, len(texts))
        guidance = self.config.sampling.guidance if guidance is None else guidance
        decoding = self._decoding(sampling, guidance)
        data, model_fns = self.config.data, self._model_fns
        begin = editing.start(model_fns.grid, data.size, data.frames, seeds, image, mask, variation)
        codes = np.zeros(begin.masked.shape, np.int32)
        if begin.image is not None:
            codes = in_chunks(lambda part: self._encode(self.visual_tokenizer, part), begin.image)
        seen = (text if guidance > 0 else np.zeros_like(text), codes, begin.masked, seeds)
        program, scale = self._program(decoding), np.float32(guidance)

        def drawn(*part: np.ndarray) -> Any:
            more = dict(zip(given, part[len(seen) :], strict=True))
            return program(self.params, self.visual_tokenizer, *part[: len(seen)], scale, **more)

        return editing.keep(to_uint8(in_chunks(drawn, *seen, *given.values())), begin)

    def frozen_text(self) -> FrozenText:
        """Its text encoder, for another model to be trained with.

        Raises:
            UserError: where it has none.
        """
        settings = frozen_text.settings_of(self.config)
        if settings is None:
            raise UserError(f"{self.config.name or 'model'}: a {self.config.model.kind} has no text encoder")
        own = self.config.text_encoder is None
        return FrozenText(settings, self.params["text"] if own else self.text_encoder, self.tokenizer.proto)

    def _reference(self, reference: Any, count: int) -> dict[str, Int32[np.ndarray, "n *grid"]]:
        """What a masked generator is told of its references; nothing where it is to draw without."""
        config = self.config.reference
        if config is None:
            if reference is not None:
                raise UserError(
                    "reference: this model takes none, since its config has no `reference`; it takes image, and mask "
                    "or variation"
                )
            return {}
        size, frames = config.data.size, config.data.frames
        shape = (count, *([frames] if frames > 1 else []), size, size, 3)
        if reference is None:
            if self.config.objective.reference_dropout > 0:
                return {}
            raise UserError(f"reference: this model never learned to draw without one; give it {list(shape)}")
        images = images_of("reference", reference, shape)
        encode = self._encode_reference
        return {"reference_codes": in_chunks(lambda part: encode(self.reference_tokenizer, part), images)}

    def _decoding(self, changes: dict[str, Any], guidance: float) -> MaskGITDecoding:
        """How to draw, checked as a config is."""
        config_dict = to_dict(self.config)
        return decoding_of(
            resolve(config_dict | {"sampling": config_dict["sampling"] | changes | {"guidance": guidance}})
        )

    def _program(self, decoding: MaskGITDecoding) -> Any:
        if decoding not in self._programs:
            self._programs[decoding] = jax.jit(make_sampler(self._model_fns, decoding))
        return self._programs[decoding]

    @functools.cached_property
    def _programs(self) -> dict[MaskGITDecoding, Any]:
        return {}

    @functools.cached_property
    def _model_fns(self) -> masked_generator.ModelFns:
        return masked_generator.model_fns(self.config)

    @functools.cached_property
    def _encode(self) -> Any:
        return jax.jit(self._model_fns.encode)

    @functools.cached_property
    def _text_features(self) -> Any:
        assert self.config.text_encoder is not None
        return jax.jit(frozen_text.encoder(self.config.text_encoder))

    @functools.cached_property
    def _encode_reference(self) -> Any:
        assert self._model_fns.encode_reference is not None
        return jax.jit(self._model_fns.encode_reference)


def decoding_of(config: Config) -> MaskGITDecoding:
    """How a config's masked generator draws."""
    sampling = dataclasses.asdict(config.sampling)
    guidance = sampling.pop("guidance")
    return MaskGITDecoding(**sampling, guided=guidance not in (0, 1))
