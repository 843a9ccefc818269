"""Feature matching: what is drawn shall look to the discriminator as the original does, layer by layer."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.losses.spec import LossSpec


def feature_matching(drawn: Sequence[jax.Array], original: Sequence[jax.Array]) -> Float[Array, "b"]:
    """The mean over layers of the mean |difference| of their features (Wang et al. 2018, arXiv:1711.11585, eq. 4).

    Args:
        drawn, original: features of each layer, [b, *space, c].
    """
    total = jnp.float32(0)
    for ours, theirs in zip(drawn, original, strict=True):
        difference = jnp.abs(ours.astype(jnp.float32) - theirs.astype(jnp.float32))
        total = total + jnp.mean(difference, axis=range(1, difference.ndim))
    return total / jnp.float32(len(drawn))


LOSS = LossSpec(
    lambda outputs, batch, config: feature_matching(batch["fake_features"], batch["real_features"]),
    needs=("image",),
    adversarial=True,
)
