"""Masked language modeling: which word is at the hidden places of a text."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.config import LossConfig
from mmjax.config.schema import setting
from mmjax.losses.masking import mask_words
from mmjax.losses.spec import LossSpec
from mmjax.types import Batch, Outputs


@dataclass(frozen=True)
class MaskedLanguageModelingConfig(LossConfig):
    """Masked language modeling.

    Attributes:
        mask_ratio: fraction of the text tokens that are masked.
    """

    mask_ratio: float = setting(0.15, at_least=0, at_most=1)


def masked_language_modeling(outputs: Outputs, batch: Batch, config: LossConfig | None = None) -> Float[Array, "b"]:
    """The mean over hidden words of their cross-entropy in nats (Devlin et al. 2018); 0 where none is hidden.

    Args:
        outputs: "text_logits" [b, t, vocabulary].
        batch: "text" [b, t], and "hidden_text" [b, t], which differs from it where a word is hidden.
    """
    chances = jax.nn.log_softmax(outputs["text_logits"])
    loss = -jnp.take_along_axis(chances, batch["text"][..., None], axis=-1)[..., 0]
    hidden = (batch["text"] != batch["hidden_text"]).astype(jnp.float32)
    return jnp.sum(loss * hidden, axis=1) / jnp.maximum(jnp.sum(hidden, axis=1), 1.0)


def _prepare(batch: Batch, key: jax.Array, config: MaskedLanguageModelingConfig) -> dict[str, jax.Array]:
    return {"hidden_text": mask_words(batch["text"], key, config.mask_ratio)}


LOSS = LossSpec(masked_language_modeling, ("text_logits",), MaskedLanguageModelingConfig, _prepare)
