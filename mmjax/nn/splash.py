"""Splash attention: the fused Pallas attention kernel of JAX for TPUs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_LANES = 128  # vector lanes of a TPU, of which lengths must be multiples
_BLOCK = 512  # largest block, in tokens


def fits(queries: int, keys: int) -> bool:
    """Whether the kernel supports these sequence lengths."""
    return queries % _LANES == 0 and keys % _LANES == 0


def make(name: str, interpret: bool = False) -> Callable[[jax.Array, jax.Array, jax.Array], jax.Array]:
    """An attention function of (q, k, v), [b, t, h, k] each: dot_product_attention without a mask.

    Args:
        name: checkpoint name of the output, for remat policies.
        interpret: run in interpret mode, to test on a CPU.
    """

    def attend(
        q: Float[Array, "b t h k"], k: Float[Array, "b s h k"], v: Float[Array, "b s h k"]
    ) -> Float[Array, "b t h k"]:
        from jax.experimental.pallas.ops.tpu import splash_attention as splash  # slow to import

        (t, h), s = q.shape[1:3], k.shape[1]
        rows, columns = _block(t), _block(s)
        blocks = splash.BlockSizes(
            block_q=rows,
            block_kv=columns,
            block_kv_compute=columns,
            block_q_dkv=rows,
            block_kv_dkv=columns,
            block_kv_dkv_compute=columns,
            block_q_dq=rows,
            block_kv_dq=columns,
        )
        mask = splash.MultiHeadMask([splash.FullMask((t, s))] * h)
        kernel = splash.make_splash_mha(
            mask,
            block_sizes=blocks,
            head_shards=1,
            q_seq_shards=1,
            residual_checkpoint_name=name,
            interpret=interpret,
        )
        scale = jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
        heads_first = (x.swapaxes(1, 2) for x in (q * scale, k, v))
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            attended: jax.Array = jax.vmap(kernel)(*heads_first)
        return attended.swapaxes(1, 2)

    return attend


def _block(length: int) -> int:
    """The largest block size up to _BLOCK that divides a length."""
    return int(np.max([size for size in range(_LANES, _BLOCK + 1, _LANES) if length % size == 0]))
