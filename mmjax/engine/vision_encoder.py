"""Pretrained image encoders as parts of models: from a folder in Hugging Face's layout, and back into one."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax

from mmjax import pretrained, registry
from mmjax.config import ComponentConfig, Config, PretrainedConfig, to_dict
from mmjax.config.pretrained_fields import VISION_ENCODER
from mmjax.export.pretrained_models import is_pretrained
from mmjax.models.pretrained_encoder import TOWER_NAME, tower, tower_shapes
from mmjax.pretrained.images import read_image_settings
from mmjax.train.workdir import read_config
from mmjax.types import Params, UserError


def component_of(component: ComponentConfig, workdir: Path, plugins: Iterable[str]) -> ComponentConfig:
    """What is known of the image encoder of a folder, or of that of a workdir whose folder is gone.

    Raises:
        UserError: where it is in another layout, has no image encoder, or one that is not supported.
    """
    folder = Path(component.path)
    if not folder.exists() and (workdir / "config.json").exists():
        return read_config(workdir, plugins=plugins).components.get(VISION_ENCODER, component)
    if not is_pretrained(folder):
        raise UserError(
            f"components.{VISION_ENCODER}: {folder} is no folder in Hugging Face's layout; a model of mmjax is "
            "taken on by train.init_from"
        )
    checkpoint = pretrained.open_checkpoint(folder, plugins)
    if "image" not in checkpoint.spec.encodes:
        raise UserError(f"components.{VISION_ENCODER}: {folder}: {checkpoint.spec.name} encodes no images")
    settings, has = read_image_settings(folder), checkpoint.spec.optional
    given = PretrainedConfig(
        dict(checkpoint.settings),
        tuple(name for name in has if getattr(checkpoint.config, name)),
        mean=settings.mean,
        deviation=settings.deviation,
    )
    return ComponentConfig(pretrained=given)


def load_params(config: Config, shardings: Any) -> dict[str, jax.Array]:
    """The parameters of a model that are those of its pretrained image encoder, by name; none without one.

    Args:
        shardings: of all parameters of the model.

    Raises:
        UserError: where the folder is gone, or is another than it was.
    """
    given = tower(config, trained=False)
    if given is None:
        return {}
    checkpoint = _checkpoint(config)
    of_tower = {
        name.removeprefix(f"{TOWER_NAME}/"): where
        for name, where in flax.traverse_util.flatten_dict(shardings, sep="/").items()
        if name.startswith(f"{TOWER_NAME}/")
    }
    unflat = flax.traverse_util.unflatten_dict(of_tower, sep="/")
    loaded = pretrained.load(checkpoint, unflat, only=tower_shapes(given))
    flat = flax.traverse_util.flatten_dict(loaded, sep="/")
    return {f"{TOWER_NAME}/{name}": leaf for name, leaf in flat.items()}


def _checkpoint(config: Config) -> pretrained.Checkpoint:
    component = config.components[VISION_ENCODER]
    checkpoint = pretrained.open_checkpoint(Path(component.path), registry.packages(to_dict(config)))
    assert component.pretrained is not None
    if dict(checkpoint.settings) != component.pretrained.settings:
        raise UserError(f"components.{VISION_ENCODER}: {component.path} holds another model than before; name that one")
    return checkpoint


def write(folder: Path, config: Config, params: Params) -> pretrained.Checkpoint:
    """Writes the image encoder of a model, and what else its folder had, in Hugging Face's layout.

    Returns:
        The checkpoint that it was before.

    Raises:
        UserError: where the model has none, or its folder is gone.
    """
    if tower(config, trained=False) is None:
        raise UserError(
            "--formats=hugging_face: the model has no pretrained image encoder, which alone is written so; leave it out"
        )
    checkpoint = _checkpoint(config)
    found = flax.traverse_util.flatten_dict(pretrained.load(checkpoint), sep="/")
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    prefix = f"{TOWER_NAME}/"
    found |= {name.removeprefix(prefix): leaf for name, leaf in flat.items() if name.startswith(prefix)}
    pretrained.write(folder, checkpoint, flax.traverse_util.unflatten_dict(found, sep="/"))
    return checkpoint
