"""Loading a model folder or a workdir: what users of a trained model call."""

import dataclasses
import functools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Float32, UInt8

from mmjax import models
from mmjax.config import Config
from mmjax.data.text import Tokenizer, load_tokenizer
from mmjax.export.model_folder import read_params
from mmjax.sample.direct import draw
from mmjax.sample.postprocess import from_uint8
from mmjax.train.workdir import read_recipe
from mmjax.types import Params, UserError


@dataclasses.dataclass(frozen=True)
class GenerativeModel:
    """A trained model.

    Attributes:
        config: its recipe; the attention kernel "cudnn" is "xla" where there is no GPU.
        params: its parameters, on the device.
        tokenizer: from text to tokens.
    """

    config: Config
    params: Params
    tokenizer: Tokenizer

    @functools.cached_property
    def apply(self) -> Any:
        """The compiled apply(params, **inputs), with what `models.inputs` names for the recipe."""
        module = models.build(self.config)
        return jax.jit(lambda params, **seen: module.apply({"params": params}, **seen))

    def generate(
        self,
        prompts: Sequence[str],
        seed: int = 0,
        guidance: float = 3.0,
        reference: Float[np.ndarray, "n y x 3"] | UInt8[np.ndarray, "n y x 3"] | None = None,
    ) -> UInt8[np.ndarray, "n y x 3"]:
        """Draws a picture for each prompt.

        Args:
            prompts: n texts; what goes beyond the recipe's text.length is cut.
            seed, guidance: for generators that draw at random; the direct generator gives one picture a prompt.
            reference: n pictures to start from, of the recipe's size: float32 from -1 to 1, or uint8 such as these
                are; None draws from the text alone.

        Raises:
            UserError: for no prompts or other than texts, for a reference of the wrong shape or range, or to a model
                that takes none, and for a model that does not draw from text.
        """
        inputs = models.inputs(self.config)
        if "text" not in inputs:
            raise UserError(
                f"{self.config.name or 'model'}: a model of kind {self.config.model.kind} does not draw from text; "
                "name a model of kind direct"
            )
        texts = _texts(prompts)
        if reference is not None:
            if "reference" not in inputs:
                raise UserError("reference: this model was built without a vision encoder (model.reference is false)")
            reference = _floats(reference, (len(texts), self.config.data.size, self.config.data.size, 3))
        text = self.tokenizer.encode(texts, self.config.text.length)
        return draw(self.apply, self.params, text, reference)


def _texts(prompts: Any) -> list[str]:
    texts = [] if isinstance(prompts, str) or not isinstance(prompts, Iterable) else list(prompts)
    if not texts:
        raise UserError('prompts: give a list of at least one text, as in ["a red circle left of a blue square"]')
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise UserError(f"prompts: each must be a text, and number {i} (from 0) is a {type(text).__name__}")
    return texts


def _floats(reference: Any, shape: tuple[int, ...]) -> Float32[np.ndarray, "n y x 3"]:
    """Reference pictures as the model takes them, -1 to 1."""
    pictures = np.asarray(reference)
    if pictures.shape != shape or pictures.dtype not in (np.float32, np.uint8):
        raise UserError(
            f"reference: must be float32 or uint8 {list(shape)}, not {pictures.dtype} {list(pictures.shape)}"
        )
    if pictures.dtype == np.uint8:
        return from_uint8(pictures)
    if not np.all(np.abs(pictures) <= 1):
        raise UserError("reference: values must be from -1 (black) to 1 (white); a uint8 picture may be given as it is")
    return pictures


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
    if is_workdir and not (folder / "checkpoints").is_dir():
        raise UserError(f"{folder}: no checkpoint there yet; run mmjax train with this --workdir first")
    if step is not None and not is_workdir:
        raise UserError(f"{folder}: a model folder holds one step only; give step with a workdir, or leave it out")
    if not (folder / "tokenizer.model").exists():
        raise UserError(f"{folder / 'tokenizer.model'}: no such file; run mmjax train, or mmjax export again")
    tokenizer = load_tokenizer(folder / "tokenizer.model")
    if is_workdir:
        from mmjax.train.checkpoint import Checkpoints  # here, since a model folder needs no Orbax, slow to import

        checkpoints = Checkpoints(folder, best=config.train.best, read_only=True)
        try:
            _, params = checkpoints.restore_params(step)
        finally:
            checkpoints.close()
    else:
        shapes = jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
        params = read_params(folder / "model.safetensors", shapes)
    return GenerativeModel(config, jax.device_put(params), tokenizer)


def _is_workdir(folder: Path) -> bool:
    """Of a folder whose config.json is one of mmjax: that of a model folder tells its step."""
    if (folder / "model.safetensors").exists():
        return False
    return "step" not in json.loads((folder / "config.json").read_text(encoding="utf-8"))


def _runnable(config: Config) -> Config:
    """The recipe with a kernel that runs here: a model trained on a GPU also draws without one."""
    if getattr(config.model, "attention", "xla") != "cudnn" or jax.default_backend() == "gpu":
        return config
    kernel: dict[str, Any] = {"attention": "xla"}  # not every kind of model has the field
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **kernel))
