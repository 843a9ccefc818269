"""The frozen text encoder: one that was trained before, and that a masked generator takes as it is.

Here is all that knows which encoder it is. Another one, such as T5 or CLIP, is put in by what this file gives for it:
its settings (`TextEncoder` in mmjax/config/fields.py), fresh parameters in the shape of its own, its text tokenizer,
whose padding is 0, and the pure function from token ids to features.
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float16, Int
from safetensors import SafetensorError, safe_open
from safetensors import numpy as safetensors

from mmjax.config import Config, DirectGeneratorConfig, MaskedGeneratorConfig, TextEncoderConfig
from mmjax.export.model_folder import flatten
from mmjax.files import write_file
from mmjax.models import text_encoder
from mmjax.types import Params, UserError

TEXT_ENCODER = "text_encoder"  # where its parameters lie in a model folder
FILE = "text_encoder.safetensors"  # in a workdir


@dataclass(frozen=True)
class FrozenText:
    """A trained text encoder.

    Attributes:
        settings: of which architecture it is.
        params: its parameters.
        tokenizer: its text tokenizer, serialized.
    """

    settings: TextEncoderConfig
    params: Params
    tokenizer: bytes


def settings_of(config: Config) -> TextEncoderConfig | None:
    """The text encoder of a model by its config, its own or the frozen one it was trained with; None: it has none."""
    model = config.model
    if config.text_encoder is not None or not isinstance(model, DirectGeneratorConfig | MaskedGeneratorConfig):
        return config.text_encoder
    return TextEncoderConfig(config.text.vocabulary, model.width, model.text_layers, model.heads, model.dtype)


def _module(settings: TextEncoderConfig) -> text_encoder.TextEncoder:
    return text_encoder.TextEncoder(
        settings.vocabulary, settings.width, settings.layers, settings.heads, jnp.dtype(settings.dtype)
    )


def init(settings: TextEncoderConfig, key: jax.Array) -> Params:
    """Fresh parameters."""
    params: Params = _module(settings).init(key, jnp.ones((1, 1), jnp.int32))["params"]
    return params


def encoder(settings: TextEncoderConfig) -> Callable[[Params, Int[Array, "b t"]], Float16[Array, "b t d"]]:
    """The pure function (params, token ids) -> features, not compiled.

    They are float16, so that those of a cache are those of a prompt, and 0 behind the text.
    """
    module = _module(settings)

    def encode(params: Params, text: Int[Array, "b t"]) -> Float16[Array, "b t d"]:
        features: jax.Array = module.apply({"params": params}, text)[0]
        return jnp.where((text != 0)[..., None], features, 0).astype(jnp.float16)

    return encode


def write(path: Path, frozen: FrozenText) -> None:
    """Writes a text encoder, whole or not at all, as one file.

    Raises:
        UserError: where it cannot be written.
    """
    arrays = flatten({"encoder": jax.device_get(frozen.params)})
    arrays["tokenizer"] = np.frombuffer(frozen.tokenizer, np.uint8)
    settings = {"settings": json.dumps(dataclasses.asdict(frozen.settings))}
    write_file(path, safetensors.save({name: np.ascontiguousarray(x) for name, x in arrays.items()}, settings))


def read(path: Path) -> FrozenText:
    """Reads what `write` wrote.

    Raises:
        UserError: where there is no such file, or it is broken.
    """
    try:
        with safe_open(path, "numpy") as file:
            settings = TextEncoderConfig(**json.loads(file.metadata()["settings"]))
            arrays = {tuple(name.split("/")): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tokenizer = arrays.pop(("tokenizer",)).tobytes()
        return FrozenText(settings, flax.traverse_util.unflatten_dict(arrays)["encoder"], tokenizer)
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: is no text encoder of mmjax, or only half of one; name another --workdir") from error
