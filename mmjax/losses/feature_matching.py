"""Feature matching on the layers of the discriminator."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.losses.spec import LossSpec


def feature_matching(fake: Sequence[jax.Array], real: Sequence[jax.Array]) -> Float[Array, "b"]:
    """Mean absolute difference of features, averaged over layers (Wang et al. 2018, arXiv:1711.11585, equation 4).

    Args:
        fake, real: features of each layer, [b, *space, c].
    """
    total = jnp.float32(0)
    for x, y in zip(fake, real, strict=True):
        difference = jnp.abs(x.astype(jnp.float32) - y.astype(jnp.float32))
        total = total + jnp.mean(difference, axis=range(1, difference.ndim))
    return total / jnp.float32(len(fake))


LOSS = LossSpec(
    lambda outputs, batch, config: feature_matching(batch["fake_features"], batch["real_features"]),
    needs=("image",),
    adversarial=True,
)
