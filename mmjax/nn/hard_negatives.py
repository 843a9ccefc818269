"""Sampling of hard negatives within a batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt32

BLOCK = 1024  # columns compared at a time, so that memory is linear in the batch size
Best = tuple[jax.Array, jax.Array]  # scores, and indices of their columns


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
    count = len(rows)
    block = min(BLOCK, count)
    indices = jnp.arange(count, dtype=jnp.int32)

    def body_fn(best: Best, part: tuple[jax.Array, ...]) -> tuple[Best, None]:
        embeddings, group, valid, index = part
        # Gumbel-max: the argmax of logits plus Gumbel noise is a sample from their softmax.
        noise = jax.vmap(lambda key: jax.random.gumbel(jax.random.fold_in(key, index[0]), (block,)))(keys)
        scores = jnp.where(valid[None] & (group[None] != groups[:, None]), rows @ embeddings.T + noise, -jnp.inf)
        column = jnp.argmax(scores, axis=1)
        score = jnp.take_along_axis(scores, column[:, None], axis=1)[:, 0]
        better = score > best[0]
        return (jnp.where(better, score, best[0]), jnp.where(better, index[column], best[1])), None

    parts = tuple(split_blocks(x, block) for x in (columns, groups, present, indices))
    sampled: jax.Array = jax.lax.scan(body_fn, (jnp.full(count, -jnp.inf), indices), parts)[0][1]
    return sampled


def split_blocks(x: Shaped[Array, "b *rest"], block: int) -> Shaped[Array, "n block *rest"]:
    """Splits an array into blocks along its first axis, the last one padded with zeros."""
    padded = jnp.pad(x, ((0, -len(x) % block), *((0, 0),) * (x.ndim - 1)))
    return padded.reshape(-1, block, *x.shape[1:])
