"""Scaled dot-product attention and the multi-head attention module."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from mmjax.nn import splash
from mmjax.nn.partitioner import UNSHARDED, Partitioner
from mmjax.nn.positions import apply_rope
from mmjax.types import FLOAT32

ATTENDED = "attended"  # checkpoint name of the attention output, for remat policies

KVCache = tuple[Float[Array, "b s h k"], Float[Array, "b s h k"]]


def dot_product_attention(
    q: Float[Array, "b t h k"],
    k: Float[Array, "b s h k"],
    v: Float[Array, "b s h k"],
    mask: Bool[Array, "#b #h #t s"] | None = None,
    kernel: str = "xla",
    partitioner: Partitioner = UNSHARDED,
) -> Float[Array, "b t h k"]:
    """softmax(q k^T / sqrt(k)) v (Vaswani et al. 2017, equation 1), with the softmax in float32.

    Args:
        q, k, v: queries, keys and values of each head.
        mask: True where a query attends to a key; a query that attends to none gets the mean of the values.
        kernel: "xla", "cudnn" (fused, NVIDIA GPUs, 16-bit dtypes only) or "splash" (fused, TPUs; falls back to "xla"
            with a mask or lengths that are not multiples of 128).
        partitioner: shards the splash kernel, which the compiler cannot partition.

    Raises:
        ValueError: for an unknown kernel.
    """
    if kernel == "cudnn":
        return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")
    if kernel not in ("xla", "splash"):
        raise ValueError(f"attention kernel {kernel!r}: must be 'xla', 'cudnn' or 'splash'")
    if kernel == "splash" and mask is None and splash.fits(q.shape[1], k.shape[1]):
        return partitioner.shard_map(splash.make(ATTENDED))(q, k, v)
    scale = jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    logits = jnp.einsum("bthk,bshk->bhts", q * scale, k, preferred_element_type=jnp.float32)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits).astype(v.dtype)
    return jnp.einsum("bhts,bshk->bthk", weights, v)


class MultiHeadAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2).

    Attributes:
        heads: number of heads, must divide the width of x.
        dtype: of the computation; parameters are float32.
        kernel, partitioner: see dot_product_attention.
    """

    heads: int
    dtype: np.dtype = FLOAT32
    kernel: str = "xla"
    partitioner: Partitioner = UNSHARDED

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t d"],
        context: Float[Array, "b s e"] | None = None,
        mask: Bool[Array, "#b #h #t s"] | None = None,
        angles: Float[Array | np.ndarray, "t a"] | None = None,
        kv_cache: KVCache | None = None,
        cache_index: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b t d"], KVCache]:
        """Attends from x to the context.

        Args:
            context: the sequence to attend to; None: x itself.
            mask: True where a query attends to a key.
            angles: RoPE angles of the queries and keys of self-attention; see positions.rope_angles.
            kv_cache: without `cache_index`, keys and values of the context from an earlier call, which are reused; with
                it, those of the sequence so far, which are updated with the keys and values of x.
            cache_index: the position of x in the sequence.

        Returns:
            The output, and the keys and values attended to: the next call's kv_cache.
        """
        shape = (self.heads, x.shape[-1] // self.heads)
        q = nn.DenseGeneral(shape, dtype=self.dtype, name="q")(x)
        q = q if angles is None else apply_rope(q, angles)
        if kv_cache is None or cache_index is not None:
            context = x if context is None else context
            k = nn.DenseGeneral(shape, dtype=self.dtype, name="k")(context)
            v = nn.DenseGeneral(shape, dtype=self.dtype, name="v")(context)
            k = k if angles is None else apply_rope(k, angles)
            if kv_cache is not None and cache_index is not None:
                k, v = (
                    lax.dynamic_update_slice_in_dim(*pair, cache_index, 1)
                    for pair in zip(kv_cache, (k, v), strict=True)
                )
        else:
            k, v = kv_cache
        self.sow("attention_maps", "queries_keys", (q, k))  # a no-op unless the collection is mutable
        attended = checkpoint_name(dot_product_attention(q, k, v, mask, self.kernel, self.partitioner), ATTENDED)
        return nn.DenseGeneral(x.shape[-1], axis=(-2, -1), dtype=self.dtype, name="out")(attended), (k, v)
