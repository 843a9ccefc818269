"""BERT (Devlin et al. 2018, arXiv:1810.04805), as in MiniLM and other sentence encoders; `bert` in transformers."""

from dataclasses import dataclass
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.dense import dense
from mmjax.nn.norm import layer_norm
from mmjax.pretrained.layers import Block, BlockConfig, Stack
from mmjax.pretrained.names import Row, Table, attention, linear, norm
from mmjax.pretrained.spec import Encoded, FamilySpec


@dataclass(frozen=True)
class BertConfig:
    """config.json, and `pooler`: whether the checkpoint has the dense layer on the class token."""

    FIXED: ClassVar = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pooler: bool = True


class Bert(nn.Module):
    """A text encoder with normalization after each residual sum. Its pooled feature is that of the class token."""

    config: BertConfig
    compute: Compute = DEFAULT

    @nn.compact
    def encode_text(self, ids: Int[Array, "b t"], mask: Bool[Array, "b t"]) -> Encoded:
        """Encodes token ids; `mask` is False on padding."""
        config, compute = self.config, self.compute

        def embedding(name: str, size: int) -> Float[Array, "size d"]:
            return self.param(name, nn.initializers.normal(0.02), (size, config.hidden_size))

        words, positions = embedding("words", config.vocab_size), embedding("positions", config.max_position_embeddings)
        kinds = embedding("kinds", config.type_vocab_size)  # of sentences, of which there is one
        x = (words[ids] + positions[None, : ids.shape[1]] + kinds[None, :1]).astype(compute.dtype)
        x = layer_norm(x, "norm", config.layer_norm_eps)
        block = BlockConfig(
            config.num_attention_heads,
            config.intermediate_size,
            config.hidden_act,
            config.layer_norm_eps,
            post_norm=True,
        )
        stack = Stack(config.num_hidden_layers, Block, block, compute, name="stack")
        x = stack(x, mask[:, None, None])
        pooled = x[:, 0]
        return Encoded(x, jnp.tanh(dense(config.hidden_size, compute, "pooler")(pooled)) if config.pooler else pooled)


def table(config: BertConfig) -> Table:
    """The tensors of the parameters."""
    layer, block = "encoder.layer.{}", "stack/block"
    inner = [f"{layer}.attention.self.{name}" for name in ("query", "key", "value")]
    return (
        Row("embeddings.word_embeddings.weight", "words", "v d"),
        Row("embeddings.position_embeddings.weight", "positions", "n d"),
        Row("embeddings.token_type_embeddings.weight", "kinds", "n d"),
        *norm("embeddings.LayerNorm", "norm"),
        *attention([*inner, f"{layer}.attention.output.dense"], f"{block}/self_attention"),
        *norm(f"{layer}.attention.output.LayerNorm", f"{block}/norm_self"),
        *linear(f"{layer}.intermediate.dense", f"{block}/mlp_in"),
        *linear(f"{layer}.output.dense", f"{block}/mlp_out"),
        *norm(f"{layer}.output.LayerNorm", f"{block}/norm_mlp"),
        *(linear("pooler.dense", "pooler") if config.pooler else ()),
    )


FAMILY = FamilySpec(
    "BERT",
    BertConfig,
    Bert,
    table,
    ("text",),
    optional={"pooler": "pooler.dense.weight"},
    renames=((r"^bert\.", ""), (r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias")),
    architecture=lambda config: "BertModel",
    ignored=(r"embeddings\.(position_ids|token_type_ids)", r"(cls|classifier|qa_outputs)\..*"),
)
