"""LPIPS, the perceptual distance between the model's image and the original (Zhang et al. 2018, arXiv:1801.03924)."""

import jax

from mmjax.config import Config, LossConfig
from mmjax.config.schema import require
from mmjax.losses.spec import LossSpec
from mmjax.models import lpips
from mmjax.types import Batch, Outputs, Params


def perceptual(outputs: Outputs, batch: Batch, config: LossConfig | None = None) -> jax.Array:
    """The distance of each example, float32 [b]; the network's parameters lie in the batch as "perceptual"."""
    return lpips.distance(batch["perceptual"], outputs["image"], batch["image"])


def _check(_: LossConfig, config: Config) -> None:
    require(
        bool(config.perceptual.weights),
        "losses.perceptual: needs the weights of LPIPS, as in --config.perceptual.weights=FILE; feature_matching needs "
        "none, but a discriminator",
    )


def _frozen(config: Config) -> Params:
    return lpips.read(config.perceptual, config.data.size)


LOSS = LossSpec(perceptual, ("image",), check=_check, frozen=_frozen)
