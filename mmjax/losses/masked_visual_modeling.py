"""Masked visual modeling: prediction of masked codes."""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.config import LossConfig
from mmjax.config.schema import setting
from mmjax.losses.masking import mask_codes
from mmjax.losses.spec import LossSpec
from mmjax.types import Batch, Outputs


@dataclass(frozen=True)
class MaskedVisualModelingConfig(LossConfig):
    """Config of masked visual modeling.

    Attributes:
        mask_schedule: masked fraction as a function of a uniform number; see masking.masked_fraction.
        label_smoothing: fraction of the target spread evenly over all codes (Szegedy et al. 2016).
        unmasked_weight: weight of unmasked tokens; that of masked ones is 1.
    """

    mask_schedule: Literal["cosine", "arccos"] = "cosine"
    label_smoothing: float = setting(0.1, at_least=0, below=1)
    unmasked_weight: float = setting(0.1, at_least=0)


def masked_visual_modeling(outputs: Outputs, batch: Batch, config: MaskedVisualModelingConfig) -> Float[Array, "b"]:
    """Weighted mean cross-entropy of the codes in nats (Chang et al. 2022, equation 1).

    Args:
        outputs: "logits" [b, *grid, k].
        batch: "codes" and "masked" [b, *grid].
    """
    log_probs = jax.nn.log_softmax(outputs["logits"])
    target = jnp.take_along_axis(log_probs, batch["codes"][..., None], axis=-1)[..., 0]
    smooth = jnp.float32(config.label_smoothing)
    loss = -((1.0 - smooth) * target + smooth * jnp.mean(log_probs, axis=-1))
    weight = jnp.where(batch["masked"], 1.0, jnp.float32(config.unmasked_weight))
    axes = range(1, loss.ndim)
    return jnp.sum(loss * weight, axis=axes) / jnp.sum(weight, axis=axes)


def _prepare(batch: Batch, key: jax.Array, config: MaskedVisualModelingConfig) -> dict[str, jax.Array]:
    return {"masked": mask_codes(batch["codes"], key, config.mask_schedule)}


LOSS = LossSpec(masked_visual_modeling, ("logits",), MaskedVisualModelingConfig, _prepare)
