"""The perceptual distance between what is drawn and the original."""

from collections.abc import Callable
from typing import Any

import jax

from mmjax.types import Batch, Outputs, Params

Distance = Callable[[Params, Any, Any], jax.Array]  # distance(params, a, b), images -1 to 1, one number an example


def perceptual(distance: Distance) -> Callable[[Outputs, Batch], jax.Array]:
    """The term by this distance, whose parameters lie in the batch as "perceptual"."""
    return lambda outputs, batch: distance(batch["perceptual"], outputs["image"], batch["image"])
