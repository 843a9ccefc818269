"""Masked patch modeling."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.config import LossConfig
from mmjax.config.schema import setting
from mmjax.losses.masking import masked_mean
from mmjax.losses.spec import LossSpec
from mmjax.types import Batch, Outputs


@dataclass(frozen=True)
class MaskedPatchModelingConfig(LossConfig):
    """Config of masked patch modeling.

    Attributes:
        mask_ratio: fraction of the patches that are masked.
    """

    mask_ratio: float = setting(0.6, at_least=0, at_most=1)


def masked_patch_modeling(outputs: Outputs, batch: Batch, config: LossConfig | None = None) -> Float[Array, "b"]:
    """Mean absolute error of the pixels of masked patches (SimMIM, Xie et al. 2022, arXiv:2111.09886).

    Args:
        outputs: "patches" [b, n, p]: predicted pixels, "patch_pixels" [b, n, p]: true ones, "hidden_patches" bool
            [b, n].
    """
    error = jnp.mean(jnp.abs(outputs["patches"] - outputs["patch_pixels"]), axis=-1)
    return masked_mean(error, outputs["hidden_patches"])


def _prepare(batch: Batch, key: jax.Array, config: MaskedPatchModelingConfig) -> dict[str, Any]:
    count = len(batch["mask"])
    return {"hide_patches": (jax.random.split(key, count), jnp.full(count, config.mask_ratio, jnp.float32))}


LOSS = LossSpec(masked_patch_modeling, ("patches",), MaskedPatchModelingConfig, _prepare)
