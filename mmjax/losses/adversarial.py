"""Adversarial losses for both players, and what keeps the discriminator in check.

All give one number an example. An example has a logit for each of its patches, high where it looks real.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.losses.spec import LossSpec
from mmjax.types import Batch, Outputs, Params

# judge(params, image) -> logits [b, *patches], features of each layer
DiscriminatorApply = Callable[[Params, Any], tuple[Any, list[Any]]]


def generator_loss(drawn: Float[Array, "b *patches"], loss: str) -> Float[Array, "b"]:
    """What the generator minimizes, given the logits of what it drew.

    "non_saturating": softplus(-D(G)), which is -log sigmoid(D(G)) (Goodfellow et al. 2014, section 3);
    "hinge": -D(G) (Lim and Ye 2017, arXiv:1705.02894).
    """
    return _mean(jax.nn.softplus(-drawn) if loss == "non_saturating" else -drawn)


def discriminator_loss(
    real: Float[Array, "b *patches"], drawn: Float[Array, "b *patches"], loss: str
) -> Float[Array, "b"]:
    """What the discriminator minimizes, given the logits of originals and of what was drawn.

    "non_saturating": softplus(-D(x)) + softplus(D(G)); "hinge": max(0, 1 - D(x)) + max(0, 1 + D(G)).
    """
    if loss == "non_saturating":
        return _mean(jax.nn.softplus(-real)) + _mean(jax.nn.softplus(drawn))
    return _mean(jax.nn.relu(1.0 - real)) + _mean(jax.nn.relu(1.0 + drawn))


def r1(
    discriminator: Callable[[Any], Float[Array, "b *patches"]], real: Float[Array, "b *space c"]
) -> Float[Array, "b"]:
    """Half the squared norm of the logit's gradient at the originals (Mescheder et al. 2018, arXiv:1801.04406, eq. 9).

    Of several patches, the gradient of their sum, and its squared norm divided by their number: as long as patches see
    different pixels that is the mean over the patches, however many there are.
    """
    patches = jax.eval_shape(discriminator, real).size // real.shape[0]
    gradient = jax.grad(lambda x: jnp.sum(discriminator(x)))(real)
    return jnp.sum(jnp.square(gradient), axis=range(1, gradient.ndim)) / (2.0 * patches)


def lecam(
    real: Float[Array, "b *patches"], drawn: Float[Array, "b *patches"], averages: dict[str, Float[Array, ""]]
) -> Float[Array, "b"]:
    """(D(x) - average of D(G)) ** 2 + (D(G) - average of D(x)) ** 2 (Tseng et al. 2021, arXiv:2104.03310, eq. 6).

    Args:
        averages: {"real", "fake"}, running averages of the logits over the steps before.
    """
    averages = jax.lax.stop_gradient(averages)
    return _mean(jnp.square(real - averages["fake"])) + _mean(jnp.square(drawn - averages["real"]))


@dataclass(frozen=True)
class Adversarial:
    """What the discriminator minimizes, and what it tells the generator.

    Attributes:
        judge: the discriminator.
        loss, regularizer, regularizer_weight: see config.Discriminator.
    """

    discriminator: DiscriminatorApply
    loss: str = "non_saturating"
    regularizer: str = "none"
    regularizer_weight: float = 0.0

    def adversarial_outputs(self, params: Params, outputs: Outputs, batch: Batch) -> dict[str, Any]:
        """What the generator's terms read: "adversarial_loss" [b], "fake_features" and "real_features"."""
        logits, features = self.discriminator(params, outputs["image"])
        return {
            "adversarial_loss": generator_loss(logits, self.loss),
            "fake_features": features,
            "real_features": self.discriminator(params, batch["image"])[1],
        }

    def losses(
        self, params: Params, outputs: Outputs, batch: Batch, averages: dict[str, jax.Array]
    ) -> dict[str, Float[Array, "b"]]:
        """The discriminator's loss, its mean logits on originals and on what was drawn, and its regularizer."""
        real, drawn = self.discriminator(params, batch["image"])[0], self.discriminator(params, outputs["image"])[0]
        regularizer = jnp.zeros(real.shape[0])
        if self.regularizer == "r1":
            regularizer = r1(lambda x: self.discriminator(params, x)[0], batch["image"])
        elif self.regularizer == "lecam":
            regularizer = lecam(real, drawn, averages)
        loss = discriminator_loss(real, drawn, self.loss) + jnp.float32(self.regularizer_weight) * regularizer
        return {
            "discriminator/loss": loss,
            "discriminator/real": _mean(real),
            "discriminator/fake": _mean(drawn),
            "discriminator/regularizer": regularizer,
        }


def _mean(logits: Float[Array, "b *patches"]) -> Float[Array, "b"]:
    return jnp.mean(logits, axis=range(1, logits.ndim))


LOSS = LossSpec(lambda outputs, batch, config: batch["adversarial_loss"], needs=("image",), adversarial=True)
