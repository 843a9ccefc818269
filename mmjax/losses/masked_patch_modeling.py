"""Masked patch modeling: what the hidden patches of an image look like."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.types import Batch, Outputs


def masked_patch_modeling(outputs: Outputs, batch: Batch) -> Float[Array, "b"]:
    """The mean absolute error of the pixels of hidden patches (SimMIM, Xie et al. 2022, arXiv:2111.09886).

    Args:
        outputs: "patches" [b, n, p]: the pixels that the model expects in each, "patch_pixels" [b, n, p]: those that
            are there, "hidden_patches" bool [b, n].
        batch: not looked at.
    """
    error = jnp.mean(jnp.abs(outputs["patches"] - outputs["patch_pixels"]), axis=-1)
    hidden = outputs["hidden_patches"].astype(jnp.float32)
    return jnp.sum(error * hidden, axis=1) / jnp.maximum(jnp.sum(hidden, axis=1), 1.0)
