"""Loading a model folder or a workdir: what users of a trained model call."""

import dataclasses
import functools
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int32, Shaped, UInt8

from mmjax import models
from mmjax.config import Config, MaskedGenerator, resolve, to_dict
from mmjax.data.text import Tokenizer, load_tokenizer
from mmjax.export import frozen_text
from mmjax.export.frozen_text import TEXT_ENCODER, FrozenText
from mmjax.export.model_folder import REFERENCE, VISUAL_TOKENIZER, read_params
from mmjax.models import masked_generator
from mmjax.sample import editing
from mmjax.sample.chunks import in_chunks
from mmjax.sample.direct import draw
from mmjax.sample.editing import pictures_of
from mmjax.sample.masked import Decoding, make_draw
from mmjax.sample.postprocess import to_uint8
from mmjax.sample.text import Writing
from mmjax.train.workdir import read_recipe
from mmjax.types import Params, UserError

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class GenerativeModel:
    """A trained model.

    Attributes:
        config: its recipe; the attention kernel "cudnn" is "xla" where there is no GPU, and so is "splash" always.
        params: its parameters, on the device.
        tokenizer: from text to tokens.
        visual_tokenizer: parameters of the visual tokenizer of a masked generator, on the device.
        reference_tokenizer: the same for its reference pictures, where it takes any.
        text_encoder: parameters of the text encoder of a masked generator that was trained with a frozen one.
    """

    config: Config
    params: Params
    tokenizer: Tokenizer
    visual_tokenizer: Params = dataclasses.field(default_factory=dict)
    reference_tokenizer: Params = dataclasses.field(default_factory=dict)
    text_encoder: Params = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def apply(self) -> Any:
        """The compiled apply(params, **inputs), with what `models.inputs` names for the recipe."""
        module = models.build(self.config)
        return jax.jit(lambda params, **seen: module.apply({"params": params}, **seen))

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
        """Draws a picture, or a clip, for each prompt.

        A direct generator gives one picture a prompt, whatever the seed. A masked generator draws at random: picture i
        depends on its prompt and its seed alone, not on what else is drawn. Given an `image`, it keeps what is not
        asked for anew: with a `mask` what is masked (inpainting, outpainting), with `variation` a share of the visual
        tokens here and there, and of a clip that is too short the frames it lacks.

        Args:
            prompts: n texts; what goes beyond the recipe's text.length is cut, and a warning says so.
            seed: one an example, or the first of n consecutive ones.
            guidance: how closely to follow the text: 0 ignores it, 1 samples as trained; None: as the recipe says. It
                is of the text alone: a masked generator looks at the reference with the text and without.
            reference: n pictures to start from, float32 from -1 to 1, or uint8 such as these are: for a direct
                generator of the recipe's size, for a masked generator with a `reference` of that recipe's size, such
                as those to be enlarged. Without one it draws from the text, if it learned to (drop_reference).
            image: for a masked generator: n pictures, or clips of at most the recipe's frames, as `reference`.
            mask: n pictures without colors, bool, or uint8 of nothing but 0 and 255: True or 255 is drawn anew.
            variation: the share drawn anew, above 0 to 1.
            sampling: other fields of the recipe's `sampling`: steps, order, temperature, confidence_temperature, top_k,
                guidance_schedule.

        Returns:
            uint8 [n, y, x, 3], clips [n, f, y, x, 3].

        Raises:
            UserError: for no prompts or other than texts, for pictures of the wrong shape or range, and for what this
                kind of model does not take, or lacks.
        """
        inputs = models.inputs(self.config)
        if "text" not in inputs:
            raise UserError(
                f"{self.config.name or 'model'}: a model of kind {self.config.model.kind} does not draw from text; "
                "name a model of kind masked_generator or direct"
            )
        texts = _texts(prompts)
        masked = isinstance(self.config.model, MaskedGenerator)
        text = self._encoded(texts)
        if not masked:
            if sampling or any(value is not None for value in (image, mask, variation)):
                raise UserError("image, mask, variation and sampling are for masked generators; this one is direct")
            size = self.config.data.size
            if reference is not None:
                if "reference" not in inputs:
                    raise UserError(
                        "reference: this model was built without a vision encoder (model.reference is false)"
                    )
                reference = pictures_of("reference", reference, (len(texts), size, size, 3))
            return draw(self.apply, self.params, text, reference)
        given: dict[str, np.ndarray] = self._reference(reference, len(texts))
        if self.config.text_encoder is not None:
            given["text_features"] = in_chunks(lambda part: self._text_features(self.text_encoder, part), text)
        seeds = _seeds(seed, len(texts))
        guidance = self.config.sampling.guidance if guidance is None else guidance
        decoding = self._decoding(sampling, guidance)
        data, functions = self.config.data, self._functions
        begin = editing.start(functions.grid, data.size, data.frames, seeds, image, mask, variation)
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
                    "reference: this model takes none, since its recipe has no `reference`; it takes image, and mask "
                    "or variation"
                )
            return {}
        size, frames = config.data.size, config.data.frames
        shape = (count, *([frames] if frames > 1 else []), size, size, 3)
        if reference is None:
            if self.config.objective.drop_reference > 0:
                return {}
            raise UserError(f"reference: this model never learned to draw without one; give it {list(shape)}")
        pictures = pictures_of("reference", reference, shape)
        encode = self._encode_reference
        return {"reference_codes": in_chunks(lambda part: encode(self.reference_tokenizer, part), pictures)}

    def _encoded(self, texts: list[str]) -> Int32[np.ndarray, "n t"]:
        length = self.config.text.length
        for name in (name for name in texts if self.tokenizer.length(name) > length):
            logger.warning("prompt %r has more than %d tokens; what goes beyond is cut", name[:60], length)
        return self.tokenizer.encode(texts, length)

    def _decoding(self, changes: dict[str, Any], guidance: float) -> Decoding:
        """How to draw, checked as a recipe is."""
        recipe = to_dict(self.config)
        return decoding_of(resolve(recipe | {"sampling": recipe["sampling"] | changes | {"guidance": guidance}}))

    def _program(self, decoding: Decoding) -> Any:
        if decoding not in self._programs:
            self._programs[decoding] = jax.jit(make_draw(self._functions, decoding))
        return self._programs[decoding]

    @functools.cached_property
    def _programs(self) -> dict[Decoding, Any]:
        return {}

    @functools.cached_property
    def _functions(self) -> masked_generator.Functions:
        return masked_generator.functions(self.config)

    @functools.cached_property
    def _encode(self) -> Any:
        return jax.jit(self._functions.encode)

    @functools.cached_property
    def _text_features(self) -> Any:
        assert self.config.text_encoder is not None
        return jax.jit(frozen_text.encoder(self.config.text_encoder))

    @functools.cached_property
    def _encode_reference(self) -> Any:
        assert self._functions.encode_reference is not None
        return jax.jit(self._functions.encode_reference)


def decoding_of(config: Config) -> Decoding:
    """How a recipe's masked generator draws."""
    sampling = dataclasses.asdict(config.sampling)
    guidance = sampling.pop("guidance")
    return Decoding(**sampling, guided=guidance not in (0, 1))


def writing_of(config: Config) -> Writing:
    """How a recipe's model writes captions and answers."""
    return Writing(config.text.length, **dataclasses.asdict(config.writing))


def _texts(prompts: Any) -> list[str]:
    texts = [] if isinstance(prompts, str) or not isinstance(prompts, Iterable) else list(prompts)
    if not texts:
        raise UserError('prompts: give a list of at least one text, as in ["a red circle left of a blue square"]')
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"prompts: each must be a text, and number {i} (from 0) is a {type(text).__name__}")
    return texts


def _seeds(seed: Any, count: int) -> Int32[np.ndarray, "n"]:
    seeds = np.asarray(seed)
    if not np.issubdtype(seeds.dtype, np.integer) or seeds.shape not in ((), (count,)):
        raise UserError(f"seed: must be a whole number, or one for each of the {count} prompts, not {seed!r}")
    # Any whole number will do; what is random takes 32 bits of it.
    return ((seeds + np.arange(count) if seeds.ndim == 0 else seeds) % 2**31).astype(np.int32)


def load(path: str | Path, step: int | str | None = None) -> GenerativeModel:
    """Loads a model folder, or the newest checkpoint of a workdir, or that of a step, or the "best".

    Raises:
        UserError: where the path is neither, or what it holds is broken, or a step is given with a model folder.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name a model folder of mmjax export or a workdir of mmjax train")
    config = _runnable(read_recipe(folder))
    is_workdir = _is_workdir(folder)
    if is_workdir and not config.train.checkpoints and not (folder / "checkpoints").is_dir():
        raise UserError(f"{folder}: no checkpoint there yet; run mmjax train with this --workdir first")
    if step is not None and not is_workdir:
        raise UserError(f"{folder}: a model folder holds one step only; give step with a workdir, or leave it out")
    if not (folder / "tokenizer.model").exists():
        raise UserError(f"{folder / 'tokenizer.model'}: no such file; run mmjax train, or mmjax export again")
    tokenizer = load_tokenizer(folder / "tokenizer.model")
    if is_workdir:
        from mmjax.train.checkpoint import Checkpoints  # here, since a model folder needs no Orbax, slow to import

        checkpoints = Checkpoints(folder, best=config.train.best, read_only=True, at=config.train.checkpoints)
        try:
            _, params = checkpoints.restore_params(step)
        finally:
            checkpoints.close()
    else:
        params = read_params(folder / "model.safetensors", jax.eval_shape(lambda: _all_params(config)))
    params = dict(params)
    theirs = {part: load(folder / part).params if is_workdir else params.pop(part) for part in _parts(config)}
    if config.text_encoder is not None:
        kept = frozen_text.read(folder / frozen_text.FILE).params if is_workdir else params.pop(TEXT_ENCODER)
        theirs[TEXT_ENCODER] = kept
    mine, others = jax.device_put((params, theirs))
    found = (others.get(part, {}) for part in (VISUAL_TOKENIZER, REFERENCE, TEXT_ENCODER))
    return GenerativeModel(config, mine, tokenizer, *found)


def _all_params(config: Config) -> dict[str, Any]:
    """Fresh parameters of all that a model folder of the recipe holds."""
    params = dict(models.init(config, jax.random.key(0)))
    if config.text_encoder is not None:
        params[TEXT_ENCODER] = frozen_text.init(config.text_encoder, jax.random.key(0))
    return params | {part: models.init(getattr(config, part), jax.random.key(0)) for part in _parts(config)}


def _parts(config: Config) -> list[str]:
    """The visual tokenizers that a recipe's model works with."""
    parts = (VISUAL_TOKENIZER, REFERENCE) if isinstance(config.model, MaskedGenerator) else ()
    return [part for part in parts if getattr(config, part) is not None]


def _is_workdir(folder: Path) -> bool:
    """Of a folder whose config.json is one of mmjax: that of a model folder tells its step."""
    if (folder / "model.safetensors").exists():
        return False
    return "step" not in json.loads((folder / "config.json").read_text(encoding="utf-8"))


def _runnable(config: Config) -> Config:
    """The recipe with a kernel that runs here: a model trained on a GPU or a pod also draws without one."""
    trained = getattr(config.model, "attention", "xla")
    if trained == "xla" or (trained == "cudnn" and jax.default_backend() == "gpu"):
        return config
    kernel: dict[str, Any] = {"attention": "xla"}  # not every kind of model has the field
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **kernel))
