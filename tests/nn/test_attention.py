"""Attention against its definition, written out in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.nn.attention import MultiHeadAttention, dot_product_attention, splash_attention


def reference(q, k, v, mask):
    """softmax(q k^T / sqrt(k)) v in float64, one query at a time."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    out = np.zeros((*q.shape[:3], v.shape[3]))
    for b, t, h in np.ndindex(*q.shape[:3]):
        score = k[b, :, h] @ q[b, t, h] / np.sqrt(q.shape[-1])
        weight = np.exp(score - score.max()) * mask[b, 0, t]
        out[b, t, h] = weight / weight.sum() @ v[b, :, h]
    return out


@pytest.fixture(name="qkv")
def random_qkv():
    keys = jax.random.split(jax.random.key(0), 4)
    q = jax.random.normal(keys[0], (2, 5, 3, 7))
    k, v = (jax.random.normal(key, (2, 11, 3, 7)) for key in keys[1:3])
    mask = jax.random.bernoulli(keys[3], 0.6, (2, 1, 5, 11)).at[..., 0].set(True)
    return q, k, v, mask


def test_equals_the_definition(qkv):
    q, k, v, mask = qkv
    np.testing.assert_allclose(dot_product_attention(q, k, v, mask), reference(q, k, v, np.asarray(mask)), atol=1e-5)


def test_equals_jax_dot_product_attention(qkv):
    q, k, v, mask = qkv
    theirs = jax.nn.dot_product_attention(q, k, v, mask=mask)
    np.testing.assert_allclose(dot_product_attention(q, k, v, mask), theirs, atol=1e-5)


def test_masked_keys_have_no_influence(qkv):
    q, k, v, mask = qkv
    mask = mask.at[..., 4].set(False)
    far = v.at[:, 4].set(1e6)
    np.testing.assert_array_equal(
        dot_product_attention(q, k, v, mask), dot_product_attention(q, k.at[:, 4].set(9), far, mask)
    )


def test_fully_masked_query_stays_finite(qkv):
    q, k, v, mask = qkv
    out = dot_product_attention(q, k, v, jnp.zeros_like(mask))
    np.testing.assert_allclose(out, jnp.broadcast_to(v.mean(1, keepdims=True), out.shape), atol=1e-5)


def test_bfloat16_is_close(qkv):
    q, k, v, mask = qkv
    near = dot_product_attention(*(x.astype(jnp.bfloat16) for x in (q, k, v)), mask)
    assert near.dtype == jnp.bfloat16
    np.testing.assert_allclose(near.astype(jnp.float32), dot_product_attention(q, k, v, mask), atol=0.05)


def test_self_attention_is_cross_attention_to_x():
    x = jax.random.normal(jax.random.key(1), (2, 5, 6))
    attention = MultiHeadAttention(heads=3)
    params = attention.init(jax.random.key(0), x)
    found, _ = attention.apply(params, x)
    np.testing.assert_array_equal(found, attention.apply(params, x, x)[0])
    swapped = x[:, ::-1]  # without positions, attention commutes with any order of its input
    np.testing.assert_allclose(attention.apply(params, swapped)[0], found[:, ::-1], atol=1e-6)


def test_kv_cache_gives_the_same_output():
    x, context = (jax.random.normal(jax.random.key(i), (2, n, 6)) for i, n in enumerate((5, 7)))
    attention = MultiHeadAttention(heads=3)
    params = attention.init(jax.random.key(0), x, context)
    found, cache = attention.apply(params, x, context)
    np.testing.assert_array_equal(attention.apply(params, x, kv_cache=cache)[0], found)
    # A sequence token after token: each sees those before it.
    causal = jnp.tril(jnp.ones((5, 5), bool))[None, None]
    whole, _ = attention.apply(params, x, mask=causal)
    room = tuple(jnp.zeros((2, 5, 3, 2)) for _ in range(2))
    for place in range(5):
        seen = (jnp.arange(5) <= place)[None, None, None]
        one, room = attention.apply(
            params, x[:, place : place + 1], mask=seen, kv_cache=room, cache_index=jnp.int32(place)
        )
        np.testing.assert_allclose(one[:, 0], whole[:, place], atol=1e-6)


def test_splash_equals_the_definition_forward_and_backward():
    """The kernel of TPUs, step by step on the CPU."""
    q, k, v = (jax.random.normal(jax.random.key(i), (2, n, 3, 16)) for i, n in enumerate((128, 256, 256)))

    def total(attend, q, k, v):
        return jnp.sum(jnp.sin(attend(q, k, v)))

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # the kernel mixes them
        found = jax.value_and_grad(total, (1, 2, 3))(functools.partial(splash_attention, interpret=True), q, k, v)
    expected = jax.value_and_grad(total, (1, 2, 3))(dot_product_attention, q, k, v)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), found, expected)


def test_splash_falls_back_to_xla(qkv):
    np.testing.assert_array_equal(dot_product_attention(*qkv, kernel="splash"), dot_product_attention(*qkv))
    for queries, keys, fits in ((128, 384, True), (128, 48, False), (7, 128, False)):
        q, k = jnp.zeros((1, queries, 1, 8)), jnp.zeros((1, keys, 1, 8))
        program = jax.jit(functools.partial(dot_product_attention, kernel="splash")).trace(q, k, k).jaxpr
        assert ("pallas_call" in str(program)) == fits


@pytest.mark.parametrize("queries", [64, 24])
def test_cudnn_takes_the_mask_of_padded_keys(queries, monkeypatch):
    """Lowered for NVIDIA GPUs, which are not here: JAX checks the shapes that its kernel takes."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91_200)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda capability: False, raising=False)
    q, k, v = (jnp.zeros((2, length, 3, 64), jnp.bfloat16) for length in (queries, 24, 24))
    mask = jnp.ones((2, 1, 1, 24), jnp.bool_)

    def loss(q, k, v):
        return jnp.sum(dot_product_attention(q, k, v, mask, "cudnn"), dtype=jnp.float32)

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        lowered = jax.jit(jax.grad(loss, (0, 1, 2))).trace(q, k, v).lower(lowering_platforms=("cuda",)).as_text()
    assert "fmhaScaleBiasSoftmax" in lowered and "Backward" in lowered
