"""What is hidden from the model in masked modeling, and how much."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmjax.types import MASK

SCHEDULES = ("cosine", "arccos")


def masked_fraction(uniform: Float[Array, "*b"], schedule: str) -> Float[Array, "*b"]:
    """The share of visual tokens to mask, from a uniform number in 0 to 1.

    "cosine": cos(pi u / 2), so that after a share u of the steps of sampling as many are still masked (Chang et al.
    2022, arXiv:2202.04200); "arccos": 2 / pi arccos(u), whose density 1 / sqrt(1 - r ** 2) has its weight near 1, the
    schedule of Muse (Chang et al. 2023, arXiv:2301.00704, section 2.6).

    Raises:
        ValueError: for another schedule.
    """
    if schedule == "cosine":
        return jnp.cos(uniform * (math.pi / 2))
    if schedule != "arccos":
        raise ValueError(f"mask schedule {schedule!r}: must be one of {', '.join(SCHEDULES)}")
    return jnp.arccos(uniform) * (2 / math.pi)


def mask_codes(codes: Int[Array, "b *grid"], key: jax.Array, schedule: str) -> Bool[Array, "b *grid"]:
    """Masks a random share of each example's tokens, at least one, at random places.

    The uniform numbers behind the shares are spread evenly over the batch, one in each of b equal parts of 0 to 1: as
    random for each example, less noisy for the loss (stratified sampling).
    """
    share_key, place_key, order_key = jax.random.split(key, 3)
    count = codes.shape[0]
    strata = jax.random.permutation(order_key, count).astype(jnp.float32)
    uniform = (strata + jax.random.uniform(share_key, (count,))) / count
    flat = codes.reshape(count, -1)
    number = jnp.maximum(jnp.ceil(masked_fraction(uniform, schedule) * flat.shape[1]), 1.0)
    places = jnp.argsort(jnp.argsort(jax.random.uniform(place_key, flat.shape), axis=1), axis=1)
    return (places.astype(jnp.float32) < number[:, None]).reshape(codes.shape)


def mask_words(text: Int[Array, "b t"], key: jax.Array, fraction: float) -> Int[Array, "b t"]:
    """Replaces a fraction of the words by the mask token, each drawn independently (Devlin et al. 2018)."""
    hidden = jax.random.uniform(key, text.shape) < jnp.float32(fraction)
    return jnp.where(hidden & (text > MASK), MASK, text)
