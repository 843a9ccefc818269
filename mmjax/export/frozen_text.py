"""Frozen text encoders, of trained and of pretrained models, and their file in a workdir."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
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

from mmjax import pretrained, registry
from mmjax.config import ComponentConfig, Config, PretrainedConfig, resolve, to_dict
from mmjax.export.model_folder import flatten
from mmjax.export.pretrained_models import tokenizer_of
from mmjax.files import check_dtype, check_finite, check_regular, check_shapes, write_file
from mmjax.models import pretrained_encoder, text_encoder
from mmjax.models.text_encoder import TEXT_ENCODER
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.types import Params, UserError

FILE = "text_encoder.safetensors"  # in a workdir


@dataclass(frozen=True)
class FrozenText:
    """A trained text encoder.

    Attributes:
        component: the config of the model that it was trained with, or what is known of a pretrained one.
        params: its parameters.
        tokenizer: its serialized text tokenizer.
    """

    component: ComponentConfig
    params: Params
    tokenizer: bytes


def of_model(model: Any) -> FrozenText:
    """Returns the text encoder of a loaded model: its own, or its frozen component.

    Raises:
        UserError: if it has none.
    """
    frozen = model.components.get(TEXT_ENCODER)
    if frozen is None:
        text_encoder.settings(model.config)
        if "text" not in model.params:
            raise UserError(f"{model.config.name or 'model'}: was not trained with a text encoder")
    component = ComponentConfig(config=model.config)
    return FrozenText(component, model.params["text"] if frozen is None else frozen, model.tokenizer.proto)


def of_folder(folder: Path, plugins: Iterable[str] = ()) -> FrozenText:
    """Loads the text encoder of a folder in Hugging Face's layout, on the default device.

    Raises:
        UserError: where it has none, or one that is not supported or damaged.
    """
    checkpoint = pretrained.open_checkpoint(folder, plugins)
    component, tokenizer = _component(checkpoint)
    shapes = flatten(jax.eval_shape(lambda: init(component, jax.random.key(0))))
    return FrozenText(component, pretrained.load(checkpoint, only=shapes), tokenizer)


def component_of_folder(folder: Path, plugins: Iterable[str] = ()) -> ComponentConfig:
    """What is known of the text encoder of a folder in Hugging Face's layout, without its parameters.

    Raises:
        UserError: as of_folder.
    """
    return _component(pretrained.open_checkpoint(folder, plugins))[0]


def _component(checkpoint: pretrained.Checkpoint) -> tuple[ComponentConfig, bytes]:
    """The component of a checkpoint, and its serialized tokenizer."""
    spec = checkpoint.spec
    if "text" not in spec.encodes:
        raise UserError(f"{checkpoint.folder}: {spec.name} encodes no texts; name a text encoder, such as CLIP or T5")
    tokenizer = tokenizer_of(checkpoint)
    has = tuple(name for name in spec.optional if getattr(checkpoint.config, name))
    given = PretrainedConfig(dict(checkpoint.settings), has, tokenizer.padding)
    return ComponentConfig(pretrained=given), tokenizer.serialized()


def _module(config: Config, compute: Compute) -> text_encoder.TextEncoder:
    return text_encoder.TextEncoder(**dataclasses.asdict(text_encoder.settings(config)), compute=compute)


def init(component: ComponentConfig, key: jax.Array) -> Params:
    """Initializes parameters."""
    component = text_encoder.innermost(component)
    if component.pretrained is not None:
        return pretrained_encoder.init_text(component.pretrained, key)
    assert component.config is not None
    return _module(component.config, DEFAULT).init(key, jnp.ones((1, 1), jnp.int32))["params"]


def encoder(
    component: ComponentConfig, compute: Compute
) -> Callable[[Params, Int[Array, "b t"]], Float16[Array, "b t d"]]:
    """Returns the pure function (params, token ids) -> features.

    They are float16, so that those of a prompt equal cached ones, and 0 at padding.
    """
    component = text_encoder.innermost(component)
    if component.pretrained is not None:
        features = pretrained_encoder.text_encoder(component.pretrained, compute)
    else:
        assert component.config is not None
        module = _module(component.config, compute)

        def features(params: Params, text: Int[Array, "b t"]) -> jax.Array:
            encoded: jax.Array = module.apply({"params": params}, text)[0]
            return encoded

    def encode(params: Params, text: Int[Array, "b t"]) -> Float16[Array, "b t d"]:
        return jnp.where((text != 0)[..., None], features(params, text), 0).astype(jnp.float16)

    return encode


def settings(component: ComponentConfig) -> dict[str, Any]:
    """What its features depend on beside its parameters, as plain data."""
    component = text_encoder.innermost(component)
    if component.pretrained is not None:
        return {"pretrained": to_dict(component.pretrained)}
    assert component.config is not None
    return dataclasses.asdict(text_encoder.settings(component.config))


def write(path: Path, frozen: FrozenText) -> None:
    """Writes a text encoder atomically as one file.

    Raises:
        UserError: if it cannot be written.
    """
    arrays = flatten({"encoder": jax.device_get(frozen.params)})
    arrays["tokenizer"] = np.frombuffer(frozen.tokenizer, np.uint8)
    given = frozen.component.pretrained
    name = "config" if given is None else "pretrained"
    settings = {name: json.dumps(to_dict(given or frozen.component.config))}
    # np.ascontiguousarray would turn a scalar into an array of one.
    write_file(path, safetensors.save({name: np.asarray(x, order="C") for name, x in arrays.items()}, settings))


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
            component = _read_component(file.metadata(), plugins)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            for name in arrays.keys() - {"tokenizer"}:
                check_dtype(path, name, file.get_slice(name).get_dtype())
        tokenizer = arrays.pop("tokenizer").tobytes()
        wanted = flatten(jax.eval_shape(lambda: {"encoder": init(component, jax.random.key(0))}))
        found, shapes = ({name: leaf.shape for name, leaf in tree.items()} for tree in (arrays, wanted))
        check_shapes(path, found, shapes)
        check_finite(path, arrays)
        return FrozenText(component, flax.traverse_util.unflatten_dict(arrays, sep="/")["encoder"], tokenizer)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: is no text encoder of mmjax, or only half of one; name another --workdir") from error


def _read_component(metadata: Mapping[str, str], plugins: Iterable[str]) -> ComponentConfig:
    if "pretrained" not in metadata:
        return ComponentConfig(config=resolve(json.loads(metadata["config"]), plugins=plugins))
    values = json.loads(metadata["pretrained"])
    registry.check_plugins(values, plugins)
    given = PretrainedConfig(dict(values["settings"]), tuple(map(str, values["has"])), int(values["padding"]))
    return ComponentConfig(pretrained=given)
