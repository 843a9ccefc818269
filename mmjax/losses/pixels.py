"""Errors of the pixels, images from -1 to 1, and the LPIPS perceptual loss."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.config import Config, LossConfig
from mmjax.config.schema import require, setting
from mmjax.losses.spec import LossSpec
from mmjax.models import lpips
from mmjax.types import Batch, Outputs, Params


@dataclass(frozen=True)
class PixelErrorConfig(LossConfig):
    """Config of an error of the pixels.

    Attributes:
        scales: the error is the mean of those at so many scales: of the pixels, of means of 2 x 2 pixels, of 4 x 4 and
            so on. Coarse scales weigh colors of areas, which thin lines otherwise outweigh.
    """

    scales: int = setting(1, at_least=1, at_most=12)


def _mean_error(error: Callable[[jax.Array], jax.Array]) -> LossSpec:
    """The mean of an error over pixels and channels."""

    def loss(outputs: Outputs, batch: Batch, config: PixelErrorConfig) -> Float[Array, "b"]:
        difference = outputs["image"] - batch["image"]
        total = jnp.mean(error(difference), axis=range(1, difference.ndim))
        for _ in range(1, config.scales):
            *rest, y, x, c = difference.shape
            difference = jnp.mean(difference.reshape(*rest, y // 2, 2, x // 2, 2, c), axis=(-4, -2))
            total += jnp.mean(error(difference), axis=range(1, difference.ndim))
        return total / config.scales

    return LossSpec(loss, ("image",), PixelErrorConfig, check=_check_scales)


def _check_scales(loss: PixelErrorConfig, config: Config) -> None:
    size = config.data.size
    require(
        size % 2 ** (loss.scales - 1) == 0,
        f"losses: {loss.scales} scales of {size} pixels; data.size must be a multiple of {2 ** (loss.scales - 1)}",
    )


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
