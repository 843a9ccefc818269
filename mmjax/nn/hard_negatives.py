"""Sampling of hard negatives within a batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

BLOCK = 1024  # columns compared at a time, so that memory is linear in the batch size
Best = tuple[jax.Array, jax.Array]  # scores, and indices of their columns


def hard_negatives(
    rows: Float[Array, "b e"],
    columns: Float[Array, "b e"],
    groups: UInt32[Array, "b"],
    present: Bool[Array, "b"],
    key: jax.Array,
) -> Int[Array, "b"]:
    """Samples for each row the index of a column of another group, with probability softmax(row . column).

    If there is no such column, the index is of one in the same group or not present.

    Args:
        rows, columns: embeddings, the temperature included in one of them.
        groups: equal for matching rows and columns, which are not negatives.
        present: which columns may be sampled.
    """
    count = len(rows)
    block = min(BLOCK, count)
    number = jnp.arange(count, dtype=jnp.int32)

    def blocks(x: jax.Array) -> jax.Array:
        return jnp.pad(x, ((0, -count % block), *((0, 0),) * (x.ndim - 1))).reshape(-1, block, *x.shape[1:])

    def body_fn(best: Best, part: tuple[jax.Array, ...]) -> tuple[Best, None]:
        them, group, there, theirs = part
        # Gumbel-max: the argmax of logits plus Gumbel noise is a sample from their softmax.
        noise = jax.random.gumbel(jax.random.fold_in(key, theirs[0]), (count, block))
        scores = jnp.where(there[None] & (group[None] != groups[:, None]), rows @ them.T + noise, -jnp.inf)
        place = jnp.argmax(scores, axis=1)
        score = jnp.take_along_axis(scores, place[:, None], axis=1)[:, 0]
        better = score > best[0]
        return (jnp.where(better, score, best[0]), jnp.where(better, theirs[place], best[1])), None

    parts = tuple(map(blocks, (columns, groups, present, number)))
    found: jax.Array = jax.lax.scan(body_fn, (jnp.full(count, -jnp.inf), number), parts)[0][1]
    return found
