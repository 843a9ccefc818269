"""Adversarial losses of generator and discriminator, regularizers of the discriminator, and feature matching.

All return one value per example. An example has a logit for each patch, high where it looks real.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.losses.spec import LossSpec
from mmjax.types import Batch, Outputs, Params


def generator_loss(fake: Float[Array, "b *patches"], loss: str) -> Float[Array, "b"]:
    """Generator loss from the logits of generated images.

    "non_saturating": softplus(-D(G)), which is -log sigmoid(D(G)) (Goodfellow et al. 2014, section 3);
    "hinge": -D(G) (Lim and Ye 2017, arXiv:1705.02894).
    """
    return _mean(jax.nn.softplus(-fake) if loss == "non_saturating" else -fake)


def discriminator_loss(
    real: Float[Array, "b *patches"], fake: Float[Array, "b *patches"], loss: str
) -> Float[Array, "b"]:
    """Discriminator loss from the logits of real and generated images.

    "non_saturating": softplus(-D(x)) + softplus(D(G)); "hinge": max(0, 1 - D(x)) + max(0, 1 + D(G)).
    """
    if loss == "non_saturating":
        return _mean(jax.nn.softplus(-real)) + _mean(jax.nn.softplus(fake))
    return _mean(jax.nn.relu(1.0 - real)) + _mean(jax.nn.relu(1.0 + fake))


def r1(
    discriminator: Callable[[Any], Float[Array, "b *patches"]], real: Float[Array, "b *space c"]
) -> Float[Array, "b"]:
    """R1 gradient penalty (Mescheder et al. 2018, arXiv:1801.04406, equation 9).

    Half the squared norm of the gradient of the summed logits at real images, divided by the number of patches: the
    mean over patches if their receptive fields do not overlap.
    """
    patches = jax.eval_shape(discriminator, real).size // real.shape[0]
    gradient = jax.grad(lambda x: jnp.sum(discriminator(x)))(real)
    return jnp.sum(jnp.square(gradient), axis=range(1, gradient.ndim)) / (2.0 * patches)


def lecam(
    real: Float[Array, "b *patches"], fake: Float[Array, "b *patches"], averages: dict[str, Float[Array, ""]]
) -> Float[Array, "b"]:
    """LeCam regularizer (Tseng et al. 2021, arXiv:2104.03310, equation 6).

    (D(x) - average of D(G)) ** 2 + (D(G) - average of D(x)) ** 2.

    Args:
        averages: {"real", "fake"}, running averages of the logits over earlier steps.
    """
    averages = jax.lax.stop_gradient(averages)
    return _mean(jnp.square(real - averages["fake"])) + _mean(jnp.square(fake - averages["real"]))


def feature_matching(fake: Sequence[jax.Array], real: Sequence[jax.Array]) -> Float[Array, "b"]:
    """Mean absolute difference of features, averaged over layers (Wang et al. 2018, arXiv:1711.11585, equation 4).

    Args:
        fake, real: features of each layer, [b, *space, c].
    """
    layers = zip(fake, real, strict=True)
    each = (_mean(jnp.abs(x.astype(jnp.float32) - y.astype(jnp.float32))) for x, y in layers)
    return sum(each, jnp.float32(0)) / jnp.float32(len(fake))


@dataclass(frozen=True)
class Adversarial:
    """Adversarial training with a discriminator.

    Attributes:
        discriminator: (params, image) -> logits [b, *patches], features of each layer.
        loss, regularizer, regularizer_weight: see DiscriminatorConfig.
    """

    discriminator: Callable[[Params, Any], tuple[Any, list[Any]]]
    loss: str = "non_saturating"
    regularizer: str = "none"
    regularizer_weight: float = 0.0

    def adversarial_outputs(self, params: Params, outputs: Outputs, batch: Batch) -> dict[str, Any]:
        """Inputs of the generator's terms: "adversarial_loss" [b], "fake_features" and "real_features"."""
        logits, features = self.discriminator(params, outputs["image"])
        return {
            "adversarial_loss": generator_loss(logits, self.loss),
            "fake_features": features,
            "real_features": self.discriminator(params, batch["image"])[1],
        }

    def losses(
        self, params: Params, outputs: Outputs, batch: Batch, averages: dict[str, jax.Array]
    ) -> dict[str, Float[Array, "b"]]:
        """The discriminator's loss and regularizer, and its mean logits of real and generated images."""
        real, fake = self.discriminator(params, batch["image"])[0], self.discriminator(params, outputs["image"])[0]
        regularizer = jnp.zeros(real.shape[0])
        if self.regularizer == "r1":
            regularizer = r1(lambda x: self.discriminator(params, x)[0], batch["image"])
        elif self.regularizer == "lecam":
            regularizer = lecam(real, fake, averages)
        loss = discriminator_loss(real, fake, self.loss) + jnp.float32(self.regularizer_weight) * regularizer
        return {
            "discriminator/loss": loss,
            "discriminator/real": _mean(real),
            "discriminator/fake": _mean(fake),
            "discriminator/regularizer": regularizer,
        }


def _mean(values: Float[Array, "b *rest"]) -> Float[Array, "b"]:
    return jnp.mean(values, axis=range(1, values.ndim))


ADVERSARIAL = LossSpec(lambda outputs, batch, config: batch["adversarial_loss"], needs=("image",), adversarial=True)
FEATURE_MATCHING = LossSpec(
    lambda outputs, batch, config: feature_matching(batch["fake_features"], batch["real_features"]),
    needs=("image",),
    adversarial=True,
)
