"""Scaled dot-product attention, and the one multi-head module. Self-attention is cross-attention to oneself."""

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

ATTENDED = "attended"  # names what attention gives, for policies of rematerialization

KVCache = tuple[Float[Array, "b s h k"], Float[Array, "b s h k"]]


def dot_product_attention(
    q: Float[Array, "b t h k"],
    k: Float[Array, "b s h k"],
    v: Float[Array, "b s h k"],
    mask: Bool[Array, "#b #h #t s"] | None = None,
    kernel: str = "xla",
    partitioner: Partitioner = UNSHARDED,
) -> Float[Array, "b t h k"]:
    """softmax(q k^T / sqrt(k)) v (Vaswani et al. 2017, equation 1); the softmax is computed in float32.

    Args:
        q, k, v: queries, keys and values of each head.
        mask: True where a query may look; a query that may look nowhere gets the mean of the values.
        kernel: "xla"; "cudnn" for the fused kernel on NVIDIA GPUs (16-bit dtypes only); "splash" for that on TPUs
            where it fits (no mask, multiples of 128 tokens), else "xla".
        partitioner: of the devices that run a kernel which the compiler cannot split.

    Raises:
        ValueError: for a kernel of another name.
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
    """Multi-head attention from x to context (Vaswani et al. 2017, section 3.2.2).

    Attributes:
        heads: h, must divide the width of x.
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
        """What each of x attends to, and the keys and values that it looked at.

        Args:
            context: what x looks at; None: x itself.
            mask: True where it may look.
            angles: for self-attention, the rotary positions of queries and keys; see positions.rope_angles.
            known: keys and values from a call before, so that they are not computed again: those of the context or,
                with a `place`, room for those of a sequence, into which those of x are written there.
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
        self.sow("attention_maps", "queries_keys", (q, k))  # kept only where somebody asks for it
        attended = checkpoint_name(dot_product_attention(q, k, v, mask, self.kernel, self.partitioner), ATTENDED)
        return nn.DenseGeneral(x.shape[-1], axis=(-2, -1), dtype=self.dtype, name="out")(attended), (k, v)
