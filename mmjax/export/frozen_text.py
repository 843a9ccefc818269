"""Frozen text encoders of trained models, and their file in a workdir."""

import dataclasses
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float16, Int
from safetensors import SafetensorError, safe_open
from safetensors import numpy as safetensors

from mmjax.config import Config, resolve, to_dict
from mmjax.export.model_folder import flatten
from mmjax.files import check_dtype, check_finite, check_regular, check_shapes, write_file
from mmjax.models import text_encoder
from mmjax.models.masked_generator import TEXT_ENCODER
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.types import Params, UserError

FILE = "text_encoder.safetensors"  # in a workdir


@dataclass(frozen=True)
class FrozenText:
    """A trained text encoder.

    Attributes:
        config: of the model that it was trained with.
        params: its parameters.
        tokenizer: its serialized text tokenizer.
    """

    config: Config
    params: Params
    tokenizer: bytes


def of_model(model: Any) -> FrozenText:
    """Returns the text encoder of a loaded model: its own, or its frozen component.

    Raises:
        UserError: if it has none.
    """
    text_encoder.settings(model.config)
    frozen = model.components.get(TEXT_ENCODER)
    if frozen is None and "text" not in model.params:
        raise UserError(f"{model.config.name or 'model'}: was not trained with a text encoder")
    return FrozenText(model.config, model.params["text"] if frozen is None else frozen, model.tokenizer.proto)


def _module(config: Config, compute: Compute) -> text_encoder.TextEncoder:
    return text_encoder.TextEncoder(**dataclasses.asdict(text_encoder.settings(config)), compute=compute)


def init(config: Config, key: jax.Array) -> Params:
    """Initializes parameters."""
    return _module(config, DEFAULT).init(key, jnp.ones((1, 1), jnp.int32))["params"]


def encoder(config: Config, compute: Compute) -> Callable[[Params, Int[Array, "b t"]], Float16[Array, "b t d"]]:
    """Returns the pure function (params, token ids) -> features.

    They are float16, so that those of a prompt equal cached ones, and 0 at padding.
    """
    module = _module(config, compute)

    def encode(params: Params, text: Int[Array, "b t"]) -> Float16[Array, "b t d"]:
        features: jax.Array = module.apply({"params": params}, text)[0]
        return jnp.where((text != 0)[..., None], features, 0).astype(jnp.float16)

    return encode


def write(path: Path, frozen: FrozenText) -> None:
    """Writes a text encoder atomically as one file.

    Raises:
        UserError: if it cannot be written.
    """
    arrays = flatten({"encoder": jax.device_get(frozen.params)})
    arrays["tokenizer"] = np.frombuffer(frozen.tokenizer, np.uint8)
    settings = {"config": json.dumps(to_dict(frozen.config))}
    write_file(path, safetensors.save({name: np.ascontiguousarray(x) for name, x in arrays.items()}, settings))


def read(path: Path, plugins: Iterable[str] = ()) -> FrozenText:
    """Reads the file of a text encoder.

    Args:
        plugins: packages whose code its config may name; see mmjax.registry.check_plugins.

    Raises:
        UserError: if the file is missing or corrupt.
    """
    try:
        check_regular(path)
        with safe_open(path, "numpy") as file:
            config = resolve(json.loads(file.metadata()["config"]), plugins=plugins)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            for name in arrays.keys() - {"tokenizer"}:
                check_dtype(path, name, file.get_slice(name).get_dtype())
        tokenizer = arrays.pop("tokenizer").tobytes()
        wanted = flatten(jax.eval_shape(lambda: {"encoder": init(config, jax.random.key(0))}))
        found, shapes = ({name: leaf.shape for name, leaf in tree.items()} for tree in (arrays, wanted))
        check_shapes(path, found, shapes)
        check_finite(path, arrays)
        return FrozenText(config, flax.traverse_util.unflatten_dict(arrays, sep="/")["encoder"], tokenizer)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: is no text encoder of mmjax, or only half of one; name another --workdir") from error
