"""Contrastive losses between images and texts, with all others of the whole batch as negatives.

Of the similarities of all pairs only a block at a time is computed, forward and backward, so that memory grows with the
batch and not with its square. Equal texts are no negatives of each other.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from mmjax.config import Config, LossConfig
from mmjax.config.schema import require
from mmjax.losses.spec import LossSpec
from mmjax.types import MASK, Batch, Outputs

NEVER = -1e9  # a logit
BLOCK = 1024  # columns of the matrix of similarities that are computed at a time


def contrastive(
    outputs: Outputs, batch: Batch, config: LossConfig | None = None, block: int = BLOCK
) -> Float[Array, "b"]:
    """InfoNCE in both directions (Radford et al. 2021, figure 3), in nats; 0 for an example without a text.

    Args:
        outputs: "image_embedding" and "text_embedding" [b, e] of length 1, "scale" [b]: what their products are
            multiplied by, the same for all.
        batch: "text" [b, t] and "mask" [b].
        block: how many of the others are compared at a time.
    """
    image, text = outputs["image_embedding"] * outputs["scale"][:, None], outputs["text_embedding"]
    groups, present = text_groups(batch["text"]), has_text(batch["text"]) & batch["mask"]
    own = jnp.sum(image * text, axis=1)

    def add(total: jax.Array, logits: jax.Array, counts: jax.Array, _: jax.Array) -> jax.Array:
        return jnp.logaddexp(total, jax.nn.logsumexp(jnp.where(counts, logits, NEVER), axis=1))

    start = jnp.full(own.shape, NEVER)
    losses = [over_pairs(add, start, *pair, groups, present, block) - own for pair in ((image, text), (text, image))]
    return jnp.where(present, (losses[0] + losses[1]) / 2.0, 0.0)


def sigmoid_contrastive(
    outputs: Outputs, batch: Batch, config: LossConfig | None = None, block: int = BLOCK
) -> Float[Array, "b"]:
    """Whether each image and text belong together, as a decision of its own for each pair (Zhai et al. 2023,
    arXiv:2303.15343, algorithm 1), in nats; 0 for an example without a text.

    Args:
        outputs, batch, block: as of contrastive, and "offset" [b], which is added to the products.
    """
    image, text = outputs["image_embedding"] * outputs["scale"][:, None], outputs["text_embedding"]
    groups, present = text_groups(batch["text"]), has_text(batch["text"]) & batch["mask"]
    offset = outputs["offset"][:, None]

    def add(total: jax.Array, logits: jax.Array, counts: jax.Array, own: jax.Array) -> jax.Array:
        loss = jax.nn.softplus(jnp.where(own, -1.0, 1.0) * (logits + offset))
        return total + jnp.sum(jnp.where(counts, loss, 0.0), axis=1)

    return jnp.where(present, over_pairs(add, jnp.zeros(len(image)), image, text, groups, present, block), 0.0)


def over_pairs(
    add: Callable[..., jax.Array],
    start: Float[Array, "b"],
    rows: Float[Array, "b e"],
    columns: Float[Array, "b e"],
    groups: UInt32[Array, "b"],
    present: Bool[Array, "b"],
    block: int,
) -> Float[Array, "b"]:
    """Sums up something of each row with all columns, a block of columns at a time.

    Args:
        add: (total so far [b], products [b, block], which of them count, which are of a row with its own column) ->
            total. A column counts where it is present, and not of the group of the row, unless it is its own.
        start: the total before.
    """
    count = len(columns)
    block = min(block, count)
    number = jnp.arange(count, dtype=jnp.int32)

    def blocks(x: jax.Array) -> jax.Array:
        filled = jnp.pad(x, ((0, -count % block), *((0, 0),) * (x.ndim - 1)))
        return filled.reshape(-1, block, *x.shape[1:])

    @jax.checkpoint
    def turn(total: jax.Array, part: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        them, group, there, theirs = part
        own = theirs[None] == number[:, None]
        counts = there[None] & (own | (group[None] != groups[:, None]))
        return add(total, rows @ them.T, counts, own & there[None]), None

    total: jax.Array = jax.lax.scan(turn, start, tuple(map(blocks, (columns, groups, present, number))))[0]
    return total


def text_groups(text: Int[Array, "b t"]) -> UInt32[Array, "b"]:
    """The same number for equal texts, and hardly ever for others."""
    factors = np.random.default_rng(0).integers(2**32, size=text.shape[1], dtype=np.uint32) | np.uint32(1)
    mixed = (text.astype(jnp.uint32) + jnp.uint32(1)) * factors[None]
    return jnp.sum(mixed ^ (mixed >> jnp.uint32(15)), axis=1, dtype=jnp.uint32)


def has_text(text: Int[Array, "b t"]) -> Bool[Array, "b"]:
    """Whether there is a word, and not just an end."""
    return jnp.any(text > MASK, axis=1)


def _check(_: LossConfig, config: Config) -> None:
    kinds = {term.kind for term in config.losses.values()}
    require(
        not {"contrastive", "sigmoid_contrastive"} <= kinds,
        "losses: contrastive and sigmoid_contrastive are two losses for the same; take one",
    )


LOSS = LossSpec(contrastive, ("image_embedding", "text_embedding"), check=_check)
SIGMOID = LossSpec(sigmoid_contrastive, ("image_embedding", "text_embedding", "offset"), check=_check)
