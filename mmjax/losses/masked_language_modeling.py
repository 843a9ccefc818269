"""Masked language modeling."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.config import LossConfig
from mmjax.config.schema import setting
from mmjax.losses.masking import mask_words, masked_mean
from mmjax.losses.spec import LossSpec
from mmjax.types import Batch, Outputs


@dataclass(frozen=True)
class MaskedLanguageModelingConfig(LossConfig):
    """Config of masked language modeling.

    Attributes:
        mask_ratio: fraction of the text tokens that are masked.
    """

    mask_ratio: float = setting(0.15, at_least=0, at_most=1)


def masked_language_modeling(outputs: Outputs, batch: Batch, config: LossConfig | None = None) -> Float[Array, "b"]:
    """Mean cross-entropy of the masked tokens in nats (Devlin et al. 2018); 0 where none is masked.

    Args:
        outputs: "text_logits" [b, t, vocabulary].
        batch: "text" [b, t], and "hidden_text" [b, t], the text with masked tokens.
    """
    log_probs = jax.nn.log_softmax(outputs["text_logits"])
    loss = -jnp.take_along_axis(log_probs, batch["text"][..., None], axis=-1)[..., 0]
    return masked_mean(loss, batch["text"] != batch["hidden_text"])


def _prepare(batch: Batch, key: jax.Array, config: MaskedLanguageModelingConfig) -> dict[str, jax.Array]:
    return {"hidden_text": mask_words(batch["text"], key, config.mask_ratio)}


LOSS = LossSpec(masked_language_modeling, ("text_logits",), MaskedLanguageModelingConfig, _prepare)
