"""How a text encoder's features become one embedding, as a folder of sentence-transformers says."""

import json
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmjax.files import UNREADABLE, read_file
from mmjax.pretrained.safetensors_files import MAX_JSON, check_inside, read_json
from mmjax.terminal import printable
from mmjax.types import UserError

MODULES = "modules.json"
LENGTH, PROMPTS = "sentence_bert_config.json", "config_sentence_transformers.json"


@dataclass(frozen=True)
class Pooling:
    """Pooling of the features of tokens.

    Attributes:
        mode: "mean" over the tokens, "max", or "cls", that of the first token that is no padding.
        longest: tokens of a text; 0: any number.
    """

    mode: str
    normalize: bool
    longest: int = 0

    def __call__(self, tokens: Float[Array, "b t d"], mask: Bool[Array, "b t"]) -> Float[Array, "b d"]:
        """One embedding of each text; `mask` is False on padding."""
        valid = mask[..., None]
        if self.mode == "mean":
            pooled = jnp.sum(jnp.where(valid, tokens, 0), axis=1) / jnp.maximum(jnp.sum(valid, axis=1), 1).astype(
                tokens.dtype
            )
        elif self.mode == "max":
            pooled = jnp.max(jnp.where(valid | ~jnp.any(valid, axis=1, keepdims=True), tokens, -jnp.inf), axis=1)
        else:
            pooled = jnp.take_along_axis(tokens, jnp.argmax(mask, axis=1)[:, None, None], axis=1)[:, 0]
        return unit(pooled) if self.normalize else pooled


def unit(x: Float[Array, "b d"]) -> Float[Array, "b d"]:
    """Scales vectors to length 1."""
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-24))


def read_pooling(folder: Path) -> Pooling | None:
    """The pooling of a folder of sentence-transformers; None for others.

    Raises:
        UserError: where a file is damaged, or has a module or a mode that is not supported.
    """
    path = folder / MODULES
    if not path.exists():
        return None
    try:
        modules = [
            (str(each["type"]).rpartition(".")[2], str(each["path"])) for each in json.loads(read_file(path, MAX_JSON))
        ]
    except (*UNREADABLE, KeyError, TypeError) as error:
        raise UserError(f"{path}: is damaged: {' '.join(str(error).split())[:80]}; copy it again") from None
    kinds = [kind for kind, _ in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise UserError(f"{path}: modules {', '.join(map(printable, kinds))}: only Transformer, Pooling, Normalize")
    check_inside(path, modules[1][1])
    settings = folder / modules[1][1] / "config.json"
    values = read_json(settings)
    modes = [values["pooling_mode"]] if isinstance(values.get("pooling_mode"), str) else []
    modes += [
        name.removeprefix("pooling_mode_")
        for name, on in values.items()
        if name.startswith("pooling_mode_") and on is True
    ]
    modes = [mode.removesuffix("_tokens").removesuffix("_token") for mode in modes]
    if len(modes) != 1 or modes[0] not in ("mean", "max", "cls"):
        raise UserError(
            f"{settings}: pooling by {', '.join(map(printable, modes)) or 'nothing'}: one of mean, max, cls"
        )
    return Pooling(modes[0], "Normalize" in kinds, _longest(folder))


def _longest(folder: Path) -> int:
    """Tokens of a text, 0: any number. Raises UserError for options that would change the embeddings."""
    values = read_json(folder / LENGTH) if (folder / LENGTH).exists() else {}
    prompts = read_json(folder / PROMPTS) if (folder / PROMPTS).exists() else {}
    for path, name, value in (
        (LENGTH, "do_lower_case", values.get("do_lower_case")),
        (PROMPTS, "default_prompt_name", prompts.get("default_prompt_name")),
    ):
        if value:
            raise UserError(f"{folder / path}: {name}: {printable(repr(value))} is not supported")
    longest = values.get("max_seq_length") or 0
    if type(longest) is not int or longest < 0:
        raise UserError(f"{folder / LENGTH}: max_seq_length: must be a whole number, not {printable(repr(longest))}")
    return longest
