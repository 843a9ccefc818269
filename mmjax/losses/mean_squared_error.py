"""Mean squared error of the pixels."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.types import Batch, Outputs


def mean_squared_error(outputs: Outputs, batch: Batch) -> Float[Array, "b"]:
    """The mean over pixels and channels of (drawn - original) ** 2, images in -1 to 1."""
    difference = outputs["image"] - batch["image"]
    return jnp.mean(jnp.square(difference), axis=range(1, difference.ndim))
