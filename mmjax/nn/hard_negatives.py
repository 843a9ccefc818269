"""Reductions over all pairs of a batch, and sampling of hard negatives."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt32

BLOCK = 1024  # columns compared at a time, so that memory is linear in the batch size
Best = tuple[jax.Array, jax.Array]  # scores, and indices of their columns


def reduce_pairs(
    add: Callable[..., Any],
    start: Any,
    rows: Float[Array, "b e"],
    columns: Float[Array, "b e"],
    groups: UInt32[Array, "b"],
    present: Bool[Array, "b"],
    block: int,
) -> Any:
    """Accumulates a function of the similarities of each row to all columns, a block of columns at a time.

    Args:
        add: (total, similarities [b, block], which are negatives, which are matching pairs, indices of the columns
            [block]) -> total. A negative is present and of another group, a match is present.
        start: initial total.
    """
    block = min(block, len(columns))
    indices = jnp.arange(len(columns), dtype=jnp.int32)

    @jax.checkpoint
    def body_fn(total: Any, part: tuple[jax.Array, ...]) -> tuple[Any, None]:
        embeddings, group, valid, index = part
        negatives = valid[None] & (group[None] != groups[:, None])
        matches = valid[None] & (index[None] == indices[:, None])
        return add(total, rows @ embeddings.T, negatives, matches, index), None

    parts = tuple(_split_blocks(x, block) for x in (columns, groups, present, indices))
    return jax.lax.scan(body_fn, start, parts)[0]


def hard_negatives(
    rows: Float[Array, "b e"],
    columns: Float[Array, "b e"],
    groups: UInt32[Array, "b"],
    present: Bool[Array, "b"],
    keys: jax.Array,
) -> Int[Array, "b"]:
    """Samples for each row the index of a column of another group, with probability softmax(row . column).

    If there is no such column, the index is of one in the same group or not present.

    Args:
        rows, columns: embeddings, the temperature included in one of them.
        groups: equal for matching rows and columns, which are not negatives.
        present: which columns may be sampled.
        keys: random keys [b], one of each row.
    """

    def add(best: Best, logits: jax.Array, negatives: jax.Array, _: jax.Array, index: jax.Array) -> Best:
        # Gumbel-max: the argmax of logits plus Gumbel noise is a sample from their softmax.
        noise = jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, index[0]), logits.shape[1:]))(keys)
        scores = jnp.where(negatives, logits + noise, -jnp.inf)
        column = jnp.argmax(scores, axis=1)
        score = jnp.take_along_axis(scores, column[:, None], axis=1)[:, 0]
        better = score > best[0]
        return jnp.where(better, score, best[0]), jnp.where(better, index[column], best[1])

    start = (jnp.full(len(rows), -jnp.inf), jnp.arange(len(rows), dtype=jnp.int32))
    return reduce_pairs(add, start, rows, columns, groups, present, BLOCK)[1]


def _split_blocks(x: Shaped[Array, "b *rest"], block: int) -> Shaped[Array, "n block *rest"]:
    """Splits an array into blocks along its first axis, the last one padded with zeros."""
    padded = jnp.pad(x, ((0, -len(x) % block), *((0, 0),) * (x.ndim - 1)))
    return padded.reshape(-1, block, *x.shape[1:])
