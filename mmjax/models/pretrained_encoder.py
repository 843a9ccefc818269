"""Encoders of models that others trained, as parts of models: what is known of them from their config alone."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mmjax import registry
from mmjax.config import Config, PretrainedConfig
from mmjax.config.pretrained_fields import VISION_ENCODER
from mmjax.config.schema import require
from mmjax.models.rules import PRETRAINED, Rules, used
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.dense import dense
from mmjax.types import FLOAT32, Params, UserError

TOWER_NAME = "vision/tower"  # prefix of the parameters of a pretrained image encoder in a model


def family(given: PretrainedConfig) -> tuple[Any, Any]:
    """The FamilySpec of a pretrained model, and its config.

    Raises:
        UserError: for a family or a setting that is not supported.
    """
    kind = given.settings.get("model_type")
    if not isinstance(kind, str):
        raise UserError("pretrained.settings.model_type: must name a family of pretrained models")
    spec: Any = registry.find("family", kind, "pretrained.settings.model_type")
    return spec, spec.read(given.settings, "pretrained.settings.", given.has)


def text_width(given: PretrainedConfig) -> int:
    """Width of the features of tokens."""
    spec, config = family(given)
    width: int = spec.text(config).hidden_size
    return width


def check_text_length(given: PretrainedConfig, length: int) -> None:
    """Raises UserError for a model without text encoder, or texts of more tokens than it has positions."""
    spec, config = family(given)
    require("text" in spec.encodes, f"components.text_encoder: {spec.name} encodes no texts")
    most = getattr(spec.text(config), "max_position_embeddings", length)
    require(length <= most, f"text.length: must be at most {most}, the positions of the text encoder, not {length}")


def init_text(given: PretrainedConfig, key: jax.Array) -> Params:
    """Initializes the parameters that encode texts, and no others."""
    spec, config = family(given)
    text = jnp.zeros((1, 1), jnp.int32)
    params: Params = spec.build(config, DEFAULT).init(key, text, text == 0, method="encode_text")["params"]
    return params


def text_encoder(
    given: PretrainedConfig, compute: Compute
) -> Callable[[Params, Int[Array, "b t"]], Float[Array, "b t d"]]:
    """Returns the pure function (params, token ids) -> features.

    The ids are those of a data.ShiftedTokenizer: 0 is padding, and all others are one higher than the model's.
    """
    spec, config = family(given)
    module = spec.build(config, compute)

    def encode(params: Params, text: Int[Array, "b t"]) -> Float[Array, "b t d"]:
        length = text.shape[1]
        if spec.padded:  # padding takes part in the features of some, as in their training
            text = jnp.pad(text, ((0, 0), (0, spec.text(config).max_position_embeddings - length)))
        mask = text != 0
        ids = jnp.where(mask, text - 1, given.padding)
        tokens: jax.Array = module.apply({"params": params}, ids, mask, method="encode_text").tokens
        return tokens[:, :length]

    return encode


@dataclass(frozen=True)
class Tower:
    """A pretrained image encoder that is a part of a model.

    Attributes:
        spec, config: its family and its config.
        mean, deviation: of the channels of its images, from 0 to 1.
        trained: whether it is trained with the model.
    """

    spec: Any
    config: Any
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    trained: bool

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        patch: int = self.spec.vision(self.config).patch_size
        return patch


def tower(config: Config, trained: bool) -> Tower | None:
    """The image encoder that is a component; None without one, or before its path is read.

    Raises:
        UserError: for a model that gives no features of patches.
    """
    component = config.components.get(VISION_ENCODER)
    given = component.pretrained if component else None
    if given is None:
        return None
    spec, settings = family(given)
    require(
        encodes_patches(spec, settings),
        f"components.{VISION_ENCODER}: {spec.name} gives no features of the patches of an image",
    )
    channels = len(given.mean) == len(given.deviation) == 3 and min(given.deviation) > 0
    require(channels, f"components.{VISION_ENCODER}.pretrained: mean and deviation must be of three channels, above 0")
    return Tower(spec, settings, given.mean, given.deviation, trained)


def encodes_patches(spec: Any, settings: Any) -> bool:
    """Whether a pretrained model of these settings is a transformer of the patches of an image."""
    return "image" in spec.encodes and "patch_size" in {each.name for each in dataclasses.fields(spec.vision(settings))}


class PretrainedVision(nn.Module):
    """The patches of an image by a pretrained encoder, normalized and projected to the width of a model.

    Attributes:
        tower: the encoder. Its positions are resized to the size of the images.
        patches: their number.
    """

    tower: Tower
    patches: int
    width: int
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(self, image: Float[Array, "b y x c"]) -> Float[Array, "b n d"]:
        """Encodes images from -1 to 1."""
        given = self.tower
        mean, deviation = (np.asarray(each, np.float32)[None, None, None] for each in (given.mean, given.deviation))
        encoder = given.spec.build(given.config, self.compute, name="tower")
        pixels = ((image + 1) / 2 - mean) / deviation
        tokens = encoder.encode_image(pixels).tokens[:, -self.patches :]  # without class token and registers
        tokens = tokens if given.trained else jax.lax.stop_gradient(tokens)
        x = nn.LayerNorm(dtype=FLOAT32, name="norm")(tokens.astype(FLOAT32)).astype(self.compute.dtype)
        return dense(self.width, self.compute, "project")(x)


def tower_shapes(given: Tower) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters that encode images, by name."""
    size = given.spec.vision(given.config).image_size
    module = given.spec.build(given.config, DEFAULT)
    image = jnp.zeros((1, size, size, 3))
    tree = jax.eval_shape(lambda: module.init(jax.random.key(0), image, method="encode_image")["params"])
    return {name: leaf.shape for name, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items()}


def tower_rules(given: Tower) -> Rules:
    """Sharding rules of a PretrainedVision that is named "vision"."""
    found = used(PRETRAINED, tower_shapes(given))
    inside = ((rf"{TOWER_NAME}/(?:{pattern})", axes) for pattern, axes in found)
    return (*inside, (r"vision/project/kernel", (None, "fsdp")))
