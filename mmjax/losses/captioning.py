"""Next-token prediction of captions and answers."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmjax.config import LossConfig
from mmjax.losses.masking import masked_mean
from mmjax.losses.spec import LossSpec
from mmjax.types import PADDING, Batch, Outputs


def captioning(outputs: Outputs, batch: Batch, config: LossConfig | None = None) -> Float[Array, "b"]:
    """Mean cross-entropy of a caption's tokens, including the end token, in nats; 0 without a caption.

    Args:
        outputs: "caption_logits" [b, t, v].
        batch: "text" [b, t].
    """
    return cross_entropy(outputs["caption_logits"], batch["text"])


def answering(outputs: Outputs, batch: Batch, config: LossConfig | None = None) -> Float[Array, "b"]:
    """As captioning, of "answer_logits" [b, t, v] and "answer" [b, t]."""
    return cross_entropy(outputs["answer_logits"], batch["answer"])


def cross_entropy(logits: Float[Array, "b t v"], text: Int[Array, "b t"]) -> Float[Array, "b"]:
    """Mean cross-entropy of the tokens of each text, without padding."""
    target = jnp.take_along_axis(logits, text[..., None], axis=-1)[..., 0]
    loss = jax.nn.logsumexp(logits, axis=-1) - target
    return masked_mean(loss, text != PADDING)


LOSS = LossSpec(captioning, needs=("caption_logits",))
ANSWERING = LossSpec(answering, needs=("answer_logits",))
