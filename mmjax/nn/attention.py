"""Scaled dot-product attention and the multi-head attention module."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from mmjax.nn.compute import DEFAULT, UNSHARDED, Compute, Partitioner
from mmjax.nn.dense import dot_general
from mmjax.nn.positions import apply_rope

ATTENDED = "attended"  # checkpoint name of the attention output, for remat policies
_LANES = 128  # vector lanes of a TPU, of which the lengths of the splash kernel must be multiples
_BLOCK = 512  # largest block of the splash kernel, in tokens

# Keys and values [b, s, h, k]; those of a stack have the layers in front.
KVCache = tuple[Float[Array, "... h k"], Float[Array, "... h k"]]


def dot_product_attention(
    q: Float[Array, "b t h k"],
    k: Float[Array, "b s h k"],
    v: Float[Array, "b s h k"],
    mask: Bool[Array, "#b #h #t s"] | None = None,
    kernel: str = "xla",
    partitioner: Partitioner = UNSHARDED,
    bias: Float[Array, "#b h t s"] | None = None,
    scale: float | None = None,
) -> Float[Array, "b t h k"]:
    """softmax(q k^T / sqrt(k)) v (Vaswani et al. 2017, equation 1), with the softmax in float32.

    Args:
        q, k, v: queries, keys and values of each head.
        mask: True where a query attends to a key; a query that attends to none gets the mean of the values.
        kernel: "xla", "cudnn" (fused, NVIDIA GPUs, 16-bit dtypes only) or "splash" (fused, TPUs; falls back to "xla"
            with a mask, a bias, a scale or lengths that are not multiples of 128).
        partitioner: shards the splash kernel, which the compiler cannot partition.
        bias: added to the logits before the softmax.
        scale: of the logits; None: 1 / sqrt(k).
    """
    if kernel == "cudnn":
        if mask is not None:  # the kernel broadcasts over examples and heads, but not over queries
            mask = jnp.broadcast_to(mask, (*mask.shape[:2], q.shape[1], k.shape[1]))
        return jax.nn.dot_product_attention(q, k, v, bias, mask, scale=scale, implementation="cudnn")
    plain = mask is None and bias is None and scale is None
    if kernel == "splash" and plain and q.shape[1] % _LANES == k.shape[1] % _LANES == 0:
        return partitioner.shard_map(splash_attention)(q, k, v)
    factor = jnp.asarray(q.shape[-1] ** -0.5 if scale is None else scale, q.dtype)
    logits = jnp.einsum("bthk,bshk->bhts", q * factor, k, preferred_element_type=jnp.float32)
    if bias is not None:
        logits += bias.astype(jnp.float32)
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(logits).astype(v.dtype)
    return jnp.einsum("bhts,bshk->bthk", weights, v)


def splash_attention(
    q: Float[Array, "b t h k"], k: Float[Array, "b s h k"], v: Float[Array, "b s h k"], interpret: bool = False
) -> Float[Array, "b t h k"]:
    """Splash attention, the fused Pallas kernel of JAX for TPUs; `interpret` runs it on a CPU, for tests."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash  # slow to import

    (t, h), s = q.shape[1:3], k.shape[1]
    rows, columns = (max(n for n in range(_LANES, _BLOCK + 1, _LANES) if length % n == 0) for length in (t, s))
    blocks: dict[str, Any] = dict.fromkeys(("block_q", "block_q_dkv", "block_q_dq"), rows)
    of_keys = ("block_kv", "block_kv_compute", "block_kv_dkv", "block_kv_dkv_compute", "block_kv_dq")
    blocks |= dict.fromkeys(of_keys, columns)
    kernel = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([splash.FullMask((t, s))] * h),
        block_sizes=splash.BlockSizes(**blocks),
        residual_checkpoint_name=ATTENDED,
        interpret=interpret,
    )
    scale = jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    heads_first = (x.swapaxes(1, 2) for x in (q * scale, k, v))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        attended: jax.Array = jax.vmap(kernel)(*heads_first)
    return attended.swapaxes(1, 2)


class MultiHeadAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2); the heads must divide the width of x.

    Attributes:
        without_bias: the projections without a bias, among "q", "k", "v" and "out".
    """

    heads: int
    compute: Compute = DEFAULT
    without_bias: tuple[str, ...] = ()

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
        compute = self.compute
        dense = functools.partial(nn.DenseGeneral, dtype=compute.dtype, dot_general=dot_general(compute))

        def project(name: str) -> nn.DenseGeneral:
            return dense((self.heads, x.shape[-1] // self.heads), use_bias=name not in self.without_bias, name=name)

        q = project("q")(x)
        q = q if angles is None else apply_rope(q, angles)
        if kv_cache is None or cache_index is not None:
            context = x if context is None else context
            k, v = project("k")(context), project("v")(context)
            k = k if angles is None else apply_rope(k, angles)
            if kv_cache is not None and cache_index is not None:
                k, v = (
                    lax.dynamic_update_slice_in_dim(*pair, cache_index, 1)
                    for pair in zip(kv_cache, (k, v), strict=True)
                )
        else:
            k, v = kv_cache
        self.sow("attention_maps", "queries_keys", (q, k))  # a no-op unless the collection is mutable
        attended = dot_product_attention(q, k, v, mask, compute.attention, compute.partitioner)
        attended = checkpoint_name(attended, ATTENDED)
        out = dense(x.shape[-1], axis=(-2, -1), use_bias="out" not in self.without_bias, name="out")
        return out(attended), (k, v)
