"""Loading a model folder or a workdir: what users of a trained model call."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from mmjax import models
from mmjax.config import Config
from mmjax.data.text import Tokenizer, load_tokenizer
from mmjax.export.model_folder import read_params
from mmjax.sample.direct import draw
from mmjax.train.workdir import read_recipe
from mmjax.types import Params, UserError


@dataclass(frozen=True)
class GenerativeModel:
    """A trained model.

    Attributes:
        config: its recipe.
        params: its parameters.
        tokenizer: from text to tokens.
    """

    config: Config
    params: Params
    tokenizer: Tokenizer

    @functools.cached_property
    def apply(self) -> Any:
        """The compiled apply(params, text, reference=None)."""
        module = models.build(self.config)
        return jax.jit(lambda params, **seen: module.apply({"params": params}, **seen))

    def generate(
        self,
        prompts: Sequence[str],
        seed: int = 0,
        guidance: float = 3.0,
        reference: Float[np.ndarray, "n y x 3"] | None = None,
    ) -> UInt8[np.ndarray, "n y x 3"]:
        """Draws a picture for each prompt.

        Args:
            prompts: n texts; what goes beyond the recipe's text.length is cut.
            seed, guidance: for generators that draw at random; the direct generator gives one picture a prompt.
            reference: n pictures to start from, -1 to 1, of the recipe's size; None draws from the text alone.

        Raises:
            UserError: for no prompts, or a reference of the wrong shape or range, or to a model that takes none.
        """
        if isinstance(prompts, str) or not prompts:
            raise UserError('prompts: give a list of at least one text, as in ["a red circle left of a blue square"]')
        size = self.config.data.size
        if reference is not None:
            if "reference" not in models.inputs(self.config):
                raise UserError("reference: this model was built without a vision encoder (model.reference is false)")
            if reference.shape != (len(prompts), size, size, 3) or reference.dtype != np.float32:
                raise UserError(
                    f"reference: must be float32 [{len(prompts)}, {size}, {size}, 3], "
                    f"not {reference.dtype} {list(reference.shape)}"
                )
            if not np.all(np.abs(reference) <= 1):
                raise UserError("reference: values must be from -1 (black) to 1 (white)")
        text = self.tokenizer.encode(list(prompts), self.config.text.length)
        return draw(self.apply, self.params, text, reference)


def load(path: str | Path, step: int | None = None) -> GenerativeModel:
    """Loads a model folder, or the newest (or the given) checkpoint of a workdir.

    Raises:
        UserError: where the path is neither, or what it holds is broken.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; name a model folder of mmjax export or a workdir of mmjax train")
    config = read_recipe(folder)
    if not (folder / "tokenizer.model").exists():
        raise UserError(f"{folder / 'tokenizer.model'}: no such file; run mmjax train, or mmjax export again")
    tokenizer = load_tokenizer(folder / "tokenizer.model")
    shapes = jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    if (folder / "model.safetensors").exists() or not (folder / "checkpoints").is_dir():
        params = read_params(folder / "model.safetensors", shapes)
    else:
        from mmjax.train.checkpoint import Checkpoints  # here, since a model folder needs no Orbax, slow to import

        checkpoints = Checkpoints(folder, read_only=True)
        _, params = checkpoints.restore_params(step)
        checkpoints.close()
    return GenerativeModel(config, params, tokenizer)
