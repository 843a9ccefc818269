"""Contrastive losses between images and texts, with negatives from the global batch, and image-text matching.

Similarities are computed a block of columns at a time, forward and backward, so that memory is linear in the batch
size. Equal texts are not negatives of each other.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from mmjax.config import Config, LossConfig
from mmjax.config.schema import require
from mmjax.losses.spec import LossSpec
from mmjax.nn.hard_negatives import BLOCK, reduce_pairs
from mmjax.types import MASK, Batch, Outputs

NEVER = -1e9  # logit of an impossible pair


def contrastive(
    outputs: Outputs, batch: Batch, config: LossConfig | None = None, block: int = BLOCK
) -> Float[Array, "b"]:
    """InfoNCE in both directions (Radford et al. 2021, figure 3), in nats; 0 for an example without a text.

    Args:
        outputs: "image_embedding" and "text_embedding" [b, e] of length 1, "scale" [b]: the inverse temperature,
            equal for all.
        batch: "text" [b, t] and "mask" [b].
        block: columns compared at a time.
    """
    image, text = outputs["image_embedding"] * outputs["scale"][:, None], outputs["text_embedding"]
    groups, present = _groups(batch)
    positive = jnp.sum(image * text, axis=1)

    def add(total: jax.Array, logits: jax.Array, negatives: jax.Array, matches: jax.Array, _: jax.Array) -> jax.Array:
        return jnp.logaddexp(total, jax.nn.logsumexp(jnp.where(negatives | matches, logits, NEVER), axis=1))

    start = jnp.full(positive.shape, NEVER)
    losses = [
        reduce_pairs(add, start, *pair, groups, present, block) - positive for pair in ((image, text), (text, image))
    ]
    return jnp.where(present, (losses[0] + losses[1]) / 2.0, 0.0)


def sigmoid_contrastive(
    outputs: Outputs, batch: Batch, config: LossConfig | None = None, block: int = BLOCK
) -> Float[Array, "b"]:
    """Sigmoid loss of all pairs (Zhai et al. 2023, arXiv:2303.15343, algorithm 1), in nats; 0 without a text.

    Args:
        outputs, batch, block: as of contrastive, and "offset" [b], the bias of the logits.
    """
    image, text = outputs["image_embedding"] * outputs["scale"][:, None], outputs["text_embedding"]
    groups, present = _groups(batch)
    offset = outputs["offset"][:, None]

    def add(total: jax.Array, logits: jax.Array, negatives: jax.Array, matches: jax.Array, _: jax.Array) -> jax.Array:
        loss = jax.nn.softplus(jnp.where(matches, -1.0, 1.0) * (logits + offset))
        return total + jnp.sum(jnp.where(negatives | matches, loss, 0.0), axis=1)

    return jnp.where(present, reduce_pairs(add, jnp.zeros(len(image)), image, text, groups, present, block), 0.0)


def text_groups(text: Int[Array, "b t"]) -> UInt32[Array, "b"]:
    """A hash of each text."""
    factors = np.random.default_rng(0).integers(2**32, size=text.shape[1], dtype=np.uint32) | np.uint32(1)
    products = (text.astype(jnp.uint32) + jnp.uint32(1)) * factors[None]
    return jnp.sum(products ^ (products >> jnp.uint32(15)), axis=1, dtype=jnp.uint32)


def _groups(batch: Batch) -> tuple[UInt32[Array, "b"], Bool[Array, "b"]]:
    """The group of each text, and whether it counts: it has a token that is not special, and is no padding."""
    return text_groups(batch["text"]), jnp.any(batch["text"] > MASK, axis=1) & batch["mask"]


def matching(outputs: Outputs, batch: Batch, config: LossConfig | None = None) -> Float[Array, "b"]:
    """Binary cross-entropy of matching pairs and hard negatives (Li et al. 2021, arXiv:2107.07651, section 3.2).

    The mean, in nats, over an example's pair, its image with another text, and its text with another image.

    Args:
        outputs: "match_logits" [b, 3] of these pairs, "match_others" [b, 2]: indices of the other text and image.
        batch: "text" [b, t] and "mask" [b]. Negatives with the same text, or without one, do not count.
    """
    groups, present = _groups(batch)
    others = outputs["match_others"]
    differ = present[others] & (groups[others] != groups[:, None])
    losses = jax.nn.softplus(outputs["match_logits"] * jnp.array([[-1.0, 1.0, 1.0]]))
    counts = jnp.concatenate([jnp.ones_like(differ[:, :1]), differ], axis=1).astype(jnp.float32)
    return jnp.where(present, jnp.sum(losses * counts, axis=1) / jnp.sum(counts, axis=1), 0.0)


def _negatives(batch: Batch, key: jax.Array, config: LossConfig) -> dict[str, Any]:
    return {"negatives": (jax.random.split(key, len(batch["text"])), *_groups(batch))}


def _check(_: LossConfig, config: Config) -> None:
    kinds = {term.kind for term in config.losses.values()} & {"contrastive", "sigmoid_contrastive"}
    require(len(kinds) < 2, "losses: contrastive and sigmoid_contrastive train the same outputs; keep one")


CONTRASTIVE = LossSpec(contrastive, ("image_embedding", "text_embedding"), check=_check, negatives=True)
# The embeddings find its hard negatives.
MATCHING = LossSpec(matching, ("match_logits",), beside=("image_embedding",), prepare=_negatives, negatives=True)
SIGMOID = LossSpec(sigmoid_contrastive, ("image_embedding", "text_embedding", "offset"), check=_check, negatives=True)
