"""Image-text matching: whether an image and a text belong together, asked of pairs that are hard to tell."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mmjax.config import Config, LossConfig
from mmjax.config.schema import require
from mmjax.losses.contrastive import has_text, text_groups
from mmjax.losses.spec import LossSpec
from mmjax.types import Batch, Outputs


def matching(outputs: Outputs, batch: Batch, config: LossConfig | None = None) -> Float[Array, "b"]:
    """The mean binary cross-entropy, in nats, of an example's own pair and of two that do not belong together: its
    image with another text, its text with another image (Li et al. 2021, arXiv:2107.07651, section 3.2).

    Args:
        outputs: "match_logits" [b, 3] of these pairs, "match_others" [b, 2]: the rows of the other text and image.
        batch: "text" [b, t] and "mask" [b]. Where the other one has the same text, or none, the pair does not count.
    """
    there = has_text(batch["text"]) & batch["mask"]
    groups, others = text_groups(batch["text"]), outputs["match_others"]
    differ = there[others] & (groups[others] != groups[:, None])
    logits = outputs["match_logits"]
    losses = jax.nn.softplus(logits * jnp.array([[-1.0, 1.0, 1.0]]))
    counts = jnp.concatenate([jnp.ones_like(differ[:, :1]), differ], axis=1).astype(jnp.float32)
    return jnp.where(there, jnp.sum(losses * counts, axis=1) / jnp.sum(counts, axis=1), 0.0)


def _prepare(batch: Batch, key: jax.Array, config: LossConfig) -> dict[str, Any]:
    present = has_text(batch["text"]) & batch["mask"]
    return {"negatives": (key, text_groups(batch["text"]), present)}


def _check(_: LossConfig, config: Config) -> None:
    kinds = {term.kind for term in config.losses.values()}
    require(
        bool({"contrastive", "sigmoid_contrastive"} & kinds),
        "losses.matching: takes the pairs that contrastive finds hard to tell; add contrastive",
    )


LOSS = LossSpec(matching, ("match_logits",), prepare=_prepare, check=_check)
