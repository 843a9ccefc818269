"""Masked modeling of codes, text and patches: what is masked, and its loss."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmjax.config import LossConfig
from mmjax.config.schema import setting
from mmjax.losses.spec import LossSpec
from mmjax.types import MASK, Batch, Outputs


@dataclass(frozen=True)
class MaskedLanguageModelingConfig(LossConfig):
    """Config of masked language modeling.

    Attributes:
        mask_ratio: fraction of the text tokens that are masked.
    """

    mask_ratio: float = setting(0.15, at_least=0, at_most=1)


@dataclass(frozen=True)
class MaskedPatchModelingConfig(LossConfig):
    """Config of masked patch modeling.

    Attributes:
        mask_ratio: fraction of the patches that are masked.
    """

    mask_ratio: float = setting(0.6, at_least=0, at_most=1)


@dataclass(frozen=True)
class MaskedVisualModelingConfig(LossConfig):
    """Config of masked visual modeling.

    Attributes:
        mask_schedule: masked fraction as a function of a uniform number; see masked.masked_fraction.
        fully_masked: fraction of the examples whose tokens are all masked; the schedule is for the others. Which object
            is where can be learned from the text only while no token tells it, which the schedules seldom show.
        label_smoothing: fraction of the target spread evenly over all codes (Szegedy et al. 2016).
        unmasked_weight: weight of unmasked tokens; that of masked ones is 1.
    """

    mask_schedule: Literal["cosine", "arccos"] = "cosine"
    fully_masked: float = setting(0.0, at_least=0, below=1)
    label_smoothing: float = setting(0.1, at_least=0, below=1)
    unmasked_weight: float = setting(0.1, at_least=0)


def masked_fraction(uniform: Float[Array, "*b"], schedule: Literal["cosine", "arccos"]) -> Float[Array, "*b"]:
    """Fraction of visual tokens to mask, from a uniform number from 0 to 1.

    "cosine": cos(pi u / 2), the fraction still masked after a fraction u of the sampling steps (Chang et al. 2022,
    arXiv:2202.04200); "arccos": 2 / pi arccos(u), whose density is largest near 1 (Muse, Chang et al. 2023,
    arXiv:2301.00704, section 2.6).
    """
    return jnp.cos(uniform * (math.pi / 2)) if schedule == "cosine" else jnp.arccos(uniform) * (2 / math.pi)


def mask_codes(
    codes: Int[Array, "b *grid"], key: jax.Array, schedule: Literal["cosine", "arccos"], fully_masked: float = 0.0
) -> Bool[Array, "b *grid"]:
    """Masks a random fraction of each example's tokens, at least one, at random positions.

    The fractions are stratified over the batch, one in each of b equal intervals, which makes the loss less noisy.

    Args:
        fully_masked: fraction of the examples whose tokens are all masked.
    """
    fraction_key, position_key, order_key = jax.random.split(key, 3)
    count = codes.shape[0]
    strata = jax.random.permutation(order_key, count).astype(jnp.float32)
    uniform = (strata + jax.random.uniform(fraction_key, (count,))) / count
    if fully_masked:
        uniform = jnp.maximum(uniform - jnp.float32(fully_masked), 0.0) / jnp.float32(1.0 - fully_masked)
    flat = codes.reshape(count, -1)
    number = jnp.maximum(jnp.ceil(masked_fraction(uniform, schedule) * flat.shape[1]), 1.0)
    ranks = jnp.argsort(jnp.argsort(jax.random.uniform(position_key, flat.shape), axis=1), axis=1)
    return (ranks.astype(jnp.float32) < number[:, None]).reshape(codes.shape)


def mask_words(text: Int[Array, "b t"], key: jax.Array, fraction: float) -> Int[Array, "b t"]:
    """Replaces tokens by the mask token, each with probability `fraction` (Devlin et al. 2018)."""
    hidden = jax.random.uniform(key, text.shape) < jnp.float32(fraction)
    return jnp.where(hidden & (text > MASK), MASK, text)


def masked_mean(values: Float[Array, "b n"], mask: Bool[Array, "b n"]) -> Float[Array, "b"]:
    """The mean of each row where the mask is True; 0 where it never is."""
    weights = mask.astype(jnp.float32)
    return jnp.sum(values * weights, axis=1) / jnp.maximum(jnp.sum(weights, axis=1), 1.0)


def masked_language_modeling(outputs: Outputs, batch: Batch, config: LossConfig | None = None) -> Float[Array, "b"]:
    """Mean cross-entropy of the masked tokens in nats (Devlin et al. 2018); 0 where none is masked.

    Args:
        outputs: "text_logits" [b, t, vocabulary].
        batch: "text" [b, t], and "hidden_text" [b, t], the text with masked tokens.
    """
    loss = -at_target(jax.nn.log_softmax(outputs["text_logits"]), batch["text"])
    return masked_mean(loss, batch["text"] != batch["hidden_text"])


def masked_patch_modeling(outputs: Outputs, batch: Batch, config: LossConfig | None = None) -> Float[Array, "b"]:
    """Mean absolute error of the pixels of masked patches (SimMIM, Xie et al. 2022, arXiv:2111.09886).

    Args:
        outputs: "patches" [b, n, p]: predicted pixels, "patch_pixels" [b, n, p]: true ones, "hidden_patches" bool
            [b, n].
    """
    error = jnp.mean(jnp.abs(outputs["patches"] - outputs["patch_pixels"]), axis=-1)
    return masked_mean(error, outputs["hidden_patches"])


def masked_visual_modeling(outputs: Outputs, batch: Batch, config: MaskedVisualModelingConfig) -> Float[Array, "b"]:
    """Weighted mean cross-entropy of the codes in nats (Chang et al. 2022, equation 1).

    Args:
        outputs: "logits" [b, *grid, k].
        batch: "codes" and "masked" [b, *grid].
    """
    log_probs = jax.nn.log_softmax(outputs["logits"])
    smooth = jnp.float32(config.label_smoothing)
    loss = -((1.0 - smooth) * at_target(log_probs, batch["codes"]) + smooth * jnp.mean(log_probs, axis=-1))
    weight = jnp.where(batch["masked"], 1.0, jnp.float32(config.unmasked_weight))
    axes = range(1, loss.ndim)
    return jnp.sum(loss * weight, axis=axes) / jnp.sum(weight, axis=axes)


def at_target(values: Float[Array, "*b k"], target: Int[Array, "*b"]) -> Float[Array, "*b"]:
    """The value of each target class."""
    return jnp.take_along_axis(values, target[..., None], axis=-1)[..., 0]


def _hidden_text(batch: Batch, key: jax.Array, config: MaskedLanguageModelingConfig) -> dict[str, jax.Array]:
    return {"hidden_text": mask_words(batch["text"], key, config.mask_ratio)}


def _hide_patches(batch: Batch, key: jax.Array, config: MaskedPatchModelingConfig) -> dict[str, Any]:
    count = len(batch["mask"])
    return {"hide_patches": (jax.random.split(key, count), jnp.full(count, config.mask_ratio, jnp.float32))}


def _masked(batch: Batch, key: jax.Array, config: MaskedVisualModelingConfig) -> dict[str, jax.Array]:
    return {"masked": mask_codes(batch["codes"], key, config.mask_schedule, config.fully_masked)}


LANGUAGE = LossSpec(masked_language_modeling, ("text_logits",), MaskedLanguageModelingConfig, _hidden_text)
PATCHES = LossSpec(masked_patch_modeling, ("patches",), MaskedPatchModelingConfig, _hide_patches)
VISUAL = LossSpec(masked_visual_modeling, ("logits",), MaskedVisualModelingConfig, _masked)
