"""Errors of the pixels, images from -1 to 1, and the LPIPS perceptual loss."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.config import Config, LossConfig
from mmjax.config.schema import require
from mmjax.losses.spec import LossSpec
from mmjax.models import lpips
from mmjax.types import Batch, Outputs, Params


def _mean_error(error: Callable[[jax.Array], jax.Array]) -> LossSpec:
    """The mean of an error over pixels and channels."""

    def loss(outputs: Outputs, batch: Batch, config: LossConfig | None = None) -> Float[Array, "b"]:
        difference = outputs["image"] - batch["image"]
        return jnp.mean(error(difference), axis=range(1, difference.ndim))

    return LossSpec(loss, needs=("image",))


def perceptual(outputs: Outputs, batch: Batch, config: LossConfig | None = None) -> Float[Array, "b"]:
    """LPIPS (Zhang et al. 2018, arXiv:1801.03924); batch["perceptual"] holds the network's parameters."""
    return lpips.distance(batch["perceptual"], outputs["image"], batch["image"])


def _check(_: LossConfig, config: Config) -> None:
    require(
        bool(config.perceptual.weights),
        "losses.perceptual: needs LPIPS weights, --config.perceptual.weights=FILE; feature_matching needs none",
    )


def _frozen(config: Config) -> Params:
    return lpips.read(config.perceptual, config.data.size)


MEAN_ABSOLUTE_ERROR, MEAN_SQUARED_ERROR = _mean_error(jnp.abs), _mean_error(jnp.square)
PERCEPTUAL = LossSpec(perceptual, ("image",), check=_check, frozen=_frozen)
