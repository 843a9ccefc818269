"""Masked visual modeling: which code is at the masked places."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.types import Batch, Outputs


def masked_visual_modeling(
    outputs: Outputs, batch: Batch, label_smoothing: float = 0.0, unmasked_weight: float = 0.0
) -> Float[Array, "b"]:
    """The weighted mean over places of the cross-entropy of the code in nats (Chang et al. 2022, equation 1).

    Args:
        outputs: "logits" [b, *grid, k].
        batch: "codes" and "masked" [b, *grid].
        label_smoothing: so much of the target is spread evenly over all codes (Szegedy et al. 2016).
        unmasked_weight: weight of the places that are seen; masked ones have 1.
    """
    chances = jax.nn.log_softmax(outputs["logits"])
    likely = jnp.take_along_axis(chances, batch["codes"][..., None], axis=-1)[..., 0]
    smooth = jnp.float32(label_smoothing)
    loss = -((1.0 - smooth) * likely + smooth * jnp.mean(chances, axis=-1))
    weight = jnp.where(batch["masked"], 1.0, jnp.float32(unmasked_weight))
    axes = range(1, loss.ndim)
    return jnp.sum(loss * weight, axis=axes) / jnp.sum(weight, axis=axes)
