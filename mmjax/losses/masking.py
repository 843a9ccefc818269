"""Masks of masked modeling."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmjax.types import MASK

SCHEDULES = ("cosine", "arccos")


def masked_fraction(uniform: Float[Array, "*b"], schedule: str) -> Float[Array, "*b"]:
    """Fraction of visual tokens to mask, from a uniform number from 0 to 1.

    "cosine": cos(pi u / 2), the fraction still masked after a fraction u of the sampling steps (Chang et al. 2022,
    arXiv:2202.04200); "arccos": 2 / pi arccos(u), whose density is largest near 1 (Muse, Chang et al. 2023,
    arXiv:2301.00704, section 2.6).

    Raises:
        ValueError: for another schedule.
    """
    if schedule == "cosine":
        return jnp.cos(uniform * (math.pi / 2))
    if schedule != "arccos":
        raise ValueError(f"mask schedule {schedule!r}: must be one of {', '.join(SCHEDULES)}")
    return jnp.arccos(uniform) * (2 / math.pi)


def mask_codes(codes: Int[Array, "b *grid"], key: jax.Array, schedule: str) -> Bool[Array, "b *grid"]:
    """Masks a random fraction of each example's tokens, at least one, at random positions.

    The fractions are stratified over the batch, one in each of b equal intervals, which makes the loss less noisy.
    """
    fraction_key, position_key, order_key = jax.random.split(key, 3)
    count = codes.shape[0]
    strata = jax.random.permutation(order_key, count).astype(jnp.float32)
    uniform = (strata + jax.random.uniform(fraction_key, (count,))) / count
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
