"""Cross-entropy of captions, answers and classes, in nats."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmjax.config import LossConfig
from mmjax.losses.masked import at_target, masked_mean
from mmjax.losses.spec import LossSpec
from mmjax.types import PADDING, Batch, Outputs


def _cross_entropy(logits: Float[Array, "*b k"], target: Int[Array, "*b"]) -> Float[Array, "*b"]:
    return jax.nn.logsumexp(logits, axis=-1) - at_target(logits, target)


def _next_token(logits: str, text: str) -> LossSpec:
    """Mean over the tokens of a text [b, t], including the end token, of logits [b, t, v]; 0 without a text."""

    def loss(outputs: Outputs, batch: Batch, config: LossConfig | None = None) -> Float[Array, "b"]:
        return masked_mean(_cross_entropy(outputs[logits], batch[text]), batch[text] != PADDING)

    return LossSpec(loss, needs=(logits,))


def classification(outputs: Outputs, batch: Batch, config: LossConfig | None = None) -> Float[Array, "b"]:
    """Cross-entropy of the class in nats; 0 without a label.

    Args:
        outputs: "class_logits" [b, k].
        batch: "label" [b], -1 where there is none.
    """
    label = batch["label"]
    return jnp.where(label >= 0, _cross_entropy(outputs["class_logits"], jnp.maximum(label, 0)), 0.0)


ANSWERING = _next_token("answer_logits", "answer")
CAPTIONING = _next_token("caption_logits", "text")
CLASSIFICATION = LossSpec(classification, needs=("class_logits",), fields=("label",))
