"""Mean squared error of some of the pixels, sampled again in every step."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from mmjax.config import LossConfig
from mmjax.config.schema import setting
from mmjax.losses import LossSpec
from mmjax.types import Batch, Outputs


@dataclass(frozen=True)
class SomePixelsConfig(LossConfig):
    """Mean squared error of some of the pixels.

    Attributes:
        fraction: of the pixels, about.
    """

    fraction: float = setting(0.5, above=0, at_most=1)


def prepare(batch: Batch, key: jax.Array, config: SomePixelsConfig) -> dict[str, jax.Array]:
    """bool [b, y, x]: which pixels count. Joins the batch, and is an input of a model that takes one of that name."""
    return {"some_pixels": jax.random.uniform(key, batch["image"].shape[:-1]) < jnp.float32(config.fraction)}


def some_pixels(outputs: Outputs, batch: Batch, config: SomePixelsConfig) -> jax.Array:
    """float32 [b]: one loss an example; the mean over the batch and the weight come from mmjax."""
    squares = jnp.mean((outputs["image"] - batch["image"]) ** 2, axis=-1)
    counted = batch["some_pixels"].astype(jnp.float32)
    return jnp.sum(squares * counted, axis=(1, 2)) / jnp.maximum(jnp.sum(counted, axis=(1, 2)), 1.0)


LOSS = LossSpec(some_pixels, needs=("image",), config=SomePixelsConfig, prepare=prepare)
