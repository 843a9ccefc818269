"""Contrastive losses between images and texts, with negatives from the global batch.

Similarities are computed a block of columns at a time, forward and backward, so that memory is linear in the batch
size. Equal texts are not negatives of each other.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from mmjax.config import Config, LossConfig
from mmjax.config.schema import require
from mmjax.losses.spec import LossSpec
from mmjax.nn.hard_negatives import BLOCK, split_blocks
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
    groups, present = text_groups(batch["text"]), has_text(batch["text"]) & batch["mask"]
    positive = jnp.sum(image * text, axis=1)

    def add(total: jax.Array, logits: jax.Array, counts: jax.Array, _: jax.Array) -> jax.Array:
        return jnp.logaddexp(total, jax.nn.logsumexp(jnp.where(counts, logits, NEVER), axis=1))

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
    groups, present = text_groups(batch["text"]), has_text(batch["text"]) & batch["mask"]
    offset = outputs["offset"][:, None]

    def add(total: jax.Array, logits: jax.Array, counts: jax.Array, matches: jax.Array) -> jax.Array:
        loss = jax.nn.softplus(jnp.where(matches, -1.0, 1.0) * (logits + offset))
        return total + jnp.sum(jnp.where(counts, loss, 0.0), axis=1)

    return jnp.where(present, reduce_pairs(add, jnp.zeros(len(image)), image, text, groups, present, block), 0.0)


def reduce_pairs(
    add: Callable[..., jax.Array],
    start: Float[Array, "b"],
    rows: Float[Array, "b e"],
    columns: Float[Array, "b e"],
    groups: UInt32[Array, "b"],
    present: Bool[Array, "b"],
    block: int,
) -> Float[Array, "b"]:
    """Accumulates a function of the similarities of each row to all columns, a block of columns at a time.

    Args:
        add: (total [b], similarities [b, block], which of them count, which are matching pairs) -> total. A column
            counts if it is present and either matches the row or is of another group.
        start: initial total.
    """
    block = min(block, len(columns))
    indices = jnp.arange(len(columns), dtype=jnp.int32)

    @jax.checkpoint
    def body_fn(total: jax.Array, part: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        embeddings, group, valid, index = part
        matches = index[None] == indices[:, None]
        counts = valid[None] & (matches | (group[None] != groups[:, None]))
        return add(total, rows @ embeddings.T, counts, matches & valid[None]), None

    parts = [split_blocks(x, block) for x in (columns, groups, present, indices)]
    total: jax.Array = jax.lax.scan(body_fn, start, tuple(parts))[0]
    return total


def text_groups(text: Int[Array, "b t"]) -> UInt32[Array, "b"]:
    """A hash of each text."""
    factors = np.random.default_rng(0).integers(2**32, size=text.shape[1], dtype=np.uint32) | np.uint32(1)
    products = (text.astype(jnp.uint32) + jnp.uint32(1)) * factors[None]
    return jnp.sum(products ^ (products >> jnp.uint32(15)), axis=1, dtype=jnp.uint32)


def has_text(text: Int[Array, "b t"]) -> Bool[Array, "b"]:
    """Whether each text has a token that is not special."""
    return jnp.any(text > MASK, axis=1)


def _check(_: LossConfig, config: Config) -> None:
    kinds = {term.kind for term in config.losses.values()}
    require(
        not {"contrastive", "sigmoid_contrastive"} <= kinds,
        "losses: contrastive and sigmoid_contrastive train the same outputs; keep one",
    )


LOSS = LossSpec(contrastive, ("image_embedding", "text_embedding"), check=_check, negatives=True)
SIGMOID = LossSpec(sigmoid_contrastive, ("image_embedding", "text_embedding", "offset"), check=_check, negatives=True)
