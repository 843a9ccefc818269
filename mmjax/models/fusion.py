"""Fusion of text features into visual tokens.

Each is a module fuse(visual [b, n, d], text [b, t, d], text_mask [b, 1, 1, t]) -> [b, n, d].
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmjax.models.rules import POOLING, STACK, Rules
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.norm import layer_norm
from mmjax.nn.pooling import AttentionPooling
from mmjax.nn.transformer import Stack

_PERCEPTRON: Rules = (
    *POOLING,
    (r".*text_in/kernel", ("fsdp", "model")),
    (r".*text_in/bias", ("model",)),
)
# Sharding rules of each kind.
RULES: dict[str, Rules] = {
    "cross_attention": STACK,
    "joint": (*STACK, (r".*type_embedding", ("fsdp",))),
    "mlp": _PERCEPTRON,
    "bilinear": _PERCEPTRON,
}


def make_fusion(
    kind: str, layers: int, heads: int, compute: Compute = DEFAULT, name: str | None = None
) -> "AttentionFusion | PerceptronFusion":
    """Builds a fusion module.

    Args:
        kind: "cross_attention": visual tokens attend to each other and to the text in every layer; "joint":
            self-attention over the tokens of both; "mlp": an MLP of each visual token and the pooled text;
            "bilinear": the same with the product of both.

    Raises:
        ValueError: for another kind.
    """
    if kind not in RULES:
        raise ValueError(f"fusion {kind!r}: must be one of {', '.join(RULES)}")
    if kind in ("mlp", "bilinear"):
        return PerceptronFusion(kind == "bilinear", layers, heads, compute, name=name)
    return AttentionFusion(kind == "joint", layers, heads, compute, name=name)


class AttentionFusion(nn.Module):
    """Transformer over visual tokens that cross-attends to the text or, with `joint`, over the tokens of both.

    A joint one adds a learned type embedding to the text.
    """

    joint: bool
    layers: int
    heads: int
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(
        self, visual: Float[Array, "b n d"], text: Float[Array, "b t d"], text_mask: Bool[Array, "b 1 1 t"]
    ) -> Float[Array, "b n d"]:
        stack = Stack(self.layers, self.heads, self.compute, name="stack")
        if not self.joint:
            return layer_norm(stack(visual, context=text, context_mask=text_mask), "norm")
        n, d = visual.shape[1:]
        type_embedding = self.param("type_embedding", nn.initializers.normal(0.02), (d,)).astype(text.dtype)
        tokens = jnp.concatenate([visual, text + type_embedding[None, None]], axis=1)
        mask = jnp.pad(text_mask, ((0, 0), (0, 0), (0, 0), (n, 0)), constant_values=True)
        return layer_norm(stack(tokens, mask)[:, :n], "norm")


class PerceptronFusion(nn.Module):
    """Residual MLPs on each visual token and the text pooled into one vector.

    The hidden units see the concatenation of token and text or, with `product`, multiply their projections: low-rank
    bilinear pooling (Kim et al. 2017, arXiv:1610.04325, equation 9).
    """

    product: bool
    layers: int
    heads: int
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(
        self, visual: Float[Array, "b n d"], text: Float[Array, "b t d"], text_mask: Bool[Array, "b 1 1 t"]
    ) -> Float[Array, "b n d"]:
        pooled = AttentionPooling(self.heads, self.compute.dtype, self.compute.partitioner, name="pool")(
            text, text_mask
        )
        for i in range(self.layers):
            visual = _Perceptron(self.product, self.compute, name=f"block_{i}")(visual, pooled)
        return layer_norm(visual, "norm")


class _Perceptron(nn.Module):
    product: bool
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], text: Float[Array, "b d"]) -> Float[Array, "b n d"]:
        d, x = x.shape[-1], self.compute.partitioner.with_sharding_constraint(x)
        token = nn.Dense(4 * d, dtype=self.compute.dtype, name="mlp_in")(layer_norm(x, "norm_mlp"))
        text = nn.Dense(4 * d, dtype=self.compute.dtype, name="text_in")(layer_norm(text, "norm_text"))[:, None]
        hidden = jnp.tanh(token) * jnp.tanh(text) if self.product else nn.gelu(token + text)
        return x + nn.Dense(d, dtype=self.compute.dtype, name="mlp_out")(hidden)
