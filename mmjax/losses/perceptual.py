"""LPIPS perceptual loss (Zhang et al. 2018, arXiv:1801.03924)."""

import jax

from mmjax.config import Config, LossConfig
from mmjax.config.schema import require
from mmjax.losses.spec import LossSpec
from mmjax.models import lpips
from mmjax.types import Batch, Outputs, Params


def perceptual(outputs: Outputs, batch: Batch, config: LossConfig | None = None) -> jax.Array:
    """LPIPS of the generated and the true image, float32 [b]; batch["perceptual"] holds the network's parameters."""
    return lpips.distance(batch["perceptual"], outputs["image"], batch["image"])


def _check(_: LossConfig, config: Config) -> None:
    require(
        bool(config.perceptual.weights),
        "losses.perceptual: needs LPIPS weights, --config.perceptual.weights=FILE; feature_matching needs none",
    )


def _frozen(config: Config) -> Params:
    return lpips.read(config.perceptual, config.data.size)


LOSS = LossSpec(perceptual, ("image",), check=_check, frozen=_frozen)
