"""Writing texts, captions and answers: each token from those before it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmjax.config import LossConfig
from mmjax.losses.spec import LossSpec
from mmjax.types import PADDING, Batch, Outputs


def captioning(outputs: Outputs, batch: Batch, config: LossConfig | None = None) -> Float[Array, "b"]:
    """The mean over a caption's tokens, its end among them, of their cross-entropy in nats; 0 where there is none.

    Args:
        outputs: "caption_logits" [b, t, v].
        batch: "text" [b, t].
    """
    return cross_entropy(outputs["caption_logits"], batch["text"])


def answering(outputs: Outputs, batch: Batch, config: LossConfig | None = None) -> Float[Array, "b"]:
    """The same of answers: "answer_logits" [b, t, v] and "answer" [b, t]."""
    return cross_entropy(outputs["answer_logits"], batch["answer"])


def cross_entropy(logits: Float[Array, "b t v"], text: Int[Array, "b t"]) -> Float[Array, "b"]:
    """The mean over the tokens of each text that are no padding."""
    own = jnp.take_along_axis(logits, text[..., None], axis=-1)[..., 0]
    loss = jax.nn.logsumexp(logits, axis=-1) - own
    counts = (text != PADDING).astype(jnp.float32)
    return jnp.sum(loss * counts, axis=1) / jnp.maximum(jnp.sum(counts, axis=1), 1.0)


LOSS = LossSpec(captioning, needs=("caption_logits",))
ANSWERING = LossSpec(answering, needs=("answer_logits",))
