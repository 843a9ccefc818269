"""Masked patch modeling: what the hidden patches of an image look like."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.config import LossConfig
from mmjax.config.schema import setting
from mmjax.losses.spec import LossSpec
from mmjax.types import Batch, Outputs


@dataclass(frozen=True)
class MaskedPatchModelingConfig(LossConfig):
    """Masked patch modeling.

    Attributes:
        mask_ratio: fraction of the patches that are masked.
    """

    mask_ratio: float = setting(0.6, at_least=0, at_most=1)


def masked_patch_modeling(outputs: Outputs, batch: Batch, config: LossConfig | None = None) -> Float[Array, "b"]:
    """The mean absolute error of the pixels of hidden patches (SimMIM, Xie et al. 2022, arXiv:2111.09886).

    Args:
        outputs: "patches" [b, n, p]: the pixels that the model expects in each, "patch_pixels" [b, n, p]: those that
            are there, "hidden_patches" bool [b, n].
        batch: not looked at.
    """
    error = jnp.mean(jnp.abs(outputs["patches"] - outputs["patch_pixels"]), axis=-1)
    hidden = outputs["hidden_patches"].astype(jnp.float32)
    return jnp.sum(error * hidden, axis=1) / jnp.maximum(jnp.sum(hidden, axis=1), 1.0)


def _prepare(batch: Batch, key: jax.Array, config: MaskedPatchModelingConfig) -> dict[str, Any]:
    return {"hide_patches": (key, config.mask_ratio)}


LOSS = LossSpec(masked_patch_modeling, ("patches",), MaskedPatchModelingConfig, _prepare)
