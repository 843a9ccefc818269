"""Mean absolute error of the pixels."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.config import LossConfig
from mmjax.losses.spec import LossSpec
from mmjax.types import Batch, Outputs


def mean_absolute_error(outputs: Outputs, batch: Batch, config: LossConfig | None = None) -> Float[Array, "b"]:
    """Mean absolute error over pixels and channels, images from -1 to 1."""
    difference = outputs["image"] - batch["image"]
    return jnp.mean(jnp.abs(difference), axis=range(1, difference.ndim))


LOSS = LossSpec(mean_absolute_error, needs=("image",))
