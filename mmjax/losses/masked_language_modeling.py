"""Masked language modeling: which word is at the hidden places of a text."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.types import Batch, Outputs


def masked_language_modeling(outputs: Outputs, batch: Batch) -> Float[Array, "b"]:
    """The mean over hidden words of their cross-entropy in nats (Devlin et al. 2018); 0 where none is hidden.

    Args:
        outputs: "text_logits" [b, t, vocabulary].
        batch: "text" [b, t], and "hidden_text" [b, t], which differs from it where a word is hidden.
    """
    chances = jax.nn.log_softmax(outputs["text_logits"])
    loss = -jnp.take_along_axis(chances, batch["text"][..., None], axis=-1)[..., 0]
    hidden = (batch["text"] != batch["hidden_text"]).astype(jnp.float32)
    return jnp.sum(loss * hidden, axis=1) / jnp.maximum(jnp.sum(hidden, axis=1), 1.0)
