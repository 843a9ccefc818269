"""Classification."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.config import LossConfig
from mmjax.losses.spec import LossSpec
from mmjax.types import Batch, Outputs


def classification(outputs: Outputs, batch: Batch, config: LossConfig | None = None) -> Float[Array, "b"]:
    """Cross-entropy of the class in nats; 0 without a label.

    Args:
        outputs: "class_logits" [b, k].
        batch: "label" [b], -1 where there is none.
    """
    logits, label = outputs["class_logits"], batch["label"]
    target = jnp.take_along_axis(logits, jnp.maximum(label, 0)[:, None], axis=1)[:, 0]
    return jnp.where(label >= 0, jax.nn.logsumexp(logits, axis=1) - target, 0.0)


LOSS = LossSpec(classification, needs=("class_logits",))
