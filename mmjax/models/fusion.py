"""Fusion of text features into visual tokens."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mmjax.models.rules import POOLING, STACK, Rules
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.dense import dense
from mmjax.nn.norm import layer_norm
from mmjax.nn.transformer import AttentionPooling, Stack

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


class Fusion(nn.Module):
    """Fuses the features of a text into visual tokens.

    Attributes:
        kind: "cross_attention": visual tokens attend to each other and to the text in every layer; "joint":
            self-attention over the tokens of both, with a learned type embedding added to the text; "mlp": residual
            MLPs on each visual token, whose hidden units see the token and the text pooled into one vector;
            "bilinear": the same with the product of both, low-rank bilinear pooling (Kim et al. 2017,
            arXiv:1610.04325, equation 9).
    """

    kind: str
    layers: int
    heads: int
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(
        self, visual: Float[Array, "b n d"], text: Float[Array, "b t d"], text_mask: Bool[Array, "b 1 1 t"]
    ) -> Float[Array, "b n d"]:
        n, d = visual.shape[1:]
        if self.kind in ("mlp", "bilinear"):
            pooled = AttentionPooling(self.heads, self.compute, name="pool")(text, text_mask)
            for i in range(self.layers):
                visual = _Perceptron(self.kind == "bilinear", self.compute, name=f"block_{i}")(visual, pooled)
            return layer_norm(visual, "norm")
        stack = Stack(self.layers, self.heads, self.compute, name="stack")
        if self.kind == "cross_attention":
            fused, _ = stack(visual, context=text, context_mask=text_mask)
            return layer_norm(fused, "norm")
        type_embedding = self.param("type_embedding", nn.initializers.normal(0.02), (d,)).astype(text.dtype)
        tokens = jnp.concatenate([visual, text + type_embedding[None, None]], axis=1)
        mask = jnp.pad(text_mask, ((0, 0), (0, 0), (0, 0), (n, 0)), constant_values=True)
        return layer_norm(stack(tokens, mask)[0][:, :n], "norm")


class _Perceptron(nn.Module):
    product: bool
    compute: Compute

    @nn.compact
    def __call__(self, x: Float[Array, "b n d"], text: Float[Array, "b d"]) -> Float[Array, "b n d"]:
        d, x = x.shape[-1], self.compute.partitioner.with_sharding_constraint(x)
        token = dense(4 * d, self.compute, "mlp_in")(layer_norm(x, "norm_mlp"))
        text = dense(4 * d, self.compute, "text_in")(layer_norm(text, "norm_text"))[:, None]
        hidden = jnp.tanh(token) * jnp.tanh(text) if self.product else nn.gelu(token + text)
        return x + dense(d, self.compute, "mlp_out")(hidden)
