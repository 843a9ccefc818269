"""Image-text matching with hard negatives."""

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
    """Binary cross-entropy of matching pairs and hard negatives (Li et al. 2021, arXiv:2107.07651, section 3.2).

    The mean, in nats, over an example's pair, its image with another text, and its text with another image.

    Args:
        outputs: "match_logits" [b, 3] of these pairs, "match_others" [b, 2]: indices of the other text and image.
        batch: "text" [b, t] and "mask" [b]. Negatives with the same text, or without one, do not count.
    """
    present = has_text(batch["text"]) & batch["mask"]
    groups, others = text_groups(batch["text"]), outputs["match_others"]
    differ = present[others] & (groups[others] != groups[:, None])
    logits = outputs["match_logits"]
    losses = jax.nn.softplus(logits * jnp.array([[-1.0, 1.0, 1.0]]))
    counts = jnp.concatenate([jnp.ones_like(differ[:, :1]), differ], axis=1).astype(jnp.float32)
    return jnp.where(present, jnp.sum(losses * counts, axis=1) / jnp.sum(counts, axis=1), 0.0)


def _prepare(batch: Batch, key: jax.Array, config: LossConfig) -> dict[str, Any]:
    keys = jax.random.split(key, len(batch["text"]))
    return {"negatives": (keys, text_groups(batch["text"]), has_text(batch["text"]) & batch["mask"])}


def _check(_: LossConfig, config: Config) -> None:
    kinds = {term.kind for term in config.losses.values()}
    require(
        bool({"contrastive", "sigmoid_contrastive"} & kinds),
        "losses.matching: needs contrastive, which finds its hard negatives",
    )


LOSS = LossSpec(matching, ("match_logits",), prepare=_prepare, check=_check, negatives=True)
