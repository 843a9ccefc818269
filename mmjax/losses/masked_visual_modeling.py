"""Masked visual modeling: which code is at the masked places."""

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
    """Masked visual modeling.

    Attributes:
        mask_schedule: how the masked fraction follows from a uniform number; see losses/masking.py.
        label_smoothing: so much of the target is spread evenly over all codes (Szegedy et al. 2016).
        unmasked_weight: weight of the tokens that are not masked; masked ones have 1.
    """

    mask_schedule: Literal["cosine", "arccos"] = "cosine"
    label_smoothing: float = setting(0.1, at_least=0, below=1)
    unmasked_weight: float = setting(0.1, at_least=0)


def masked_visual_modeling(outputs: Outputs, batch: Batch, config: MaskedVisualModelingConfig) -> Float[Array, "b"]:
    """The weighted mean over places of the cross-entropy of the code in nats (Chang et al. 2022, equation 1).

    Args:
        outputs: "logits" [b, *grid, k].
        batch: "codes" and "masked" [b, *grid].
    """
    chances = jax.nn.log_softmax(outputs["logits"])
    likely = jnp.take_along_axis(chances, batch["codes"][..., None], axis=-1)[..., 0]
    smooth = jnp.float32(config.label_smoothing)
    loss = -((1.0 - smooth) * likely + smooth * jnp.mean(chances, axis=-1))
    weight = jnp.where(batch["masked"], 1.0, jnp.float32(config.unmasked_weight))
    axes = range(1, loss.ndim)
    return jnp.sum(loss * weight, axis=axes) / jnp.sum(weight, axis=axes)


def _prepare(batch: Batch, key: jax.Array, config: MaskedVisualModelingConfig) -> dict[str, jax.Array]:
    return {"masked": mask_codes(batch["codes"], key, config.mask_schedule)}


LOSS = LossSpec(masked_visual_modeling, ("logits",), MaskedVisualModelingConfig, _prepare)
