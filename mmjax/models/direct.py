"""Direct generator: predicts an image from a text and an optional reference image in one forward pass.

Trained with mean squared error it predicts the mean of all images that match the text: sharp where the text determines
the image, blurred elsewhere. It is the baseline of the other generators.
"""

from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float16, Int

from mmjax.config import Config, ModelConfig
from mmjax.config.schema import require, setting
from mmjax.models import fusion, text_encoder, vision_encoder
from mmjax.models.fusion import Fusion
from mmjax.models.rules import Rules, joined
from mmjax.models.spec import ModelSpec, check_transformer, check_widths, dropout_mask, image_field
from mmjax.models.text_encoder import TEXT_ENCODER, FrozenFeatures, TextEncoder
from mmjax.models.vision_encoder import VisionEncoder
from mmjax.models.visual_tokenizer import Decoder
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.nn.positions import sincos_grid
from mmjax.types import Batch

_RULES: Rules = (
    (r"query_embedding", ("fsdp",)),
    (r"decoder/upsample_\d+/kernel", (None, None, "fsdp", "model")),
    (r"decoder/pixels/kernel", (None, None, "fsdp", None)),
)


@dataclass(frozen=True)
class DirectGeneratorConfig(ModelConfig):
    """Config of the direct generator.

    Attributes:
        width: model width d, shared by the encoders and the fusion.
        heads: attention heads; must divide width.
        text_layers, vision_layers, fusion_layers: transformer layers of each part; the first unless the text encoder is
            a frozen component.
        reference: name of the data's image field that is the reference; "": none, and no vision encoder.
        reference_dropout: fraction of the examples whose reference is dropped in training.
        fusion: of the text into the visual tokens: "cross_attention", "joint", "mlp" or "bilinear"; see
            fusion.Fusion.
        decoder_widths: channels of the transposed convolutions; each doubles the side, so there are
            size / 2 ** len(decoder_widths) rows of visual tokens.
    """

    width: int = setting(128, above=0, at_most=32_768)
    heads: int = setting(4, above=0, at_most=1_000)
    text_layers: int = setting(2, above=0, at_most=1_000)
    vision_layers: int = setting(2, above=0, at_most=1_000)
    fusion_layers: int = setting(4, above=0, at_most=1_000)
    reference: str = "image"
    reference_dropout: float = setting(0.0, at_least=0, at_most=1)
    fusion: Literal["cross_attention", "joint", "mlp", "bilinear"] = "cross_attention"
    decoder_widths: tuple[int, ...] = setting((64, 32), above=0, at_most=16_384)


def _model(config: Config) -> DirectGeneratorConfig:
    assert isinstance(config.model, DirectGeneratorConfig)
    return config.model


def build(config: Config, compute: Compute = DEFAULT) -> "DirectGenerator":
    frozen_text = text_encoder.frozen(config) is not None
    return DirectGenerator(_model(config), config.text.vocabulary, config.data.size, frozen_text, compute)


def inputs(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    shapes = {"text": jax.ShapeDtypeStruct((1, config.text.length), jnp.int32)}
    shapes |= text_encoder.features_shape(config)
    if _model(config).reference:
        shapes["reference"] = jax.ShapeDtypeStruct((1, config.data.size, config.data.size, 3), jnp.float32)
    return shapes


def sharding_rules(config: Config) -> Rules:
    model = _model(config)
    vision = vision_encoder.rules() if model.reference else ()
    text = text_encoder.RULES if text_encoder.frozen(config) is None else text_encoder.FROZEN_RULES
    return joined(text, vision, fusion.RULES[model.fusion], _RULES)


def prepare(config: Config, batch: Batch, key: jax.Array | None) -> dict[str, Any]:
    """The text, its features and the reference; drops some references in training."""
    model, taken = _model(config), inputs(config).keys() & {"text", "text_features"}
    text = {name: batch[name] for name in taken}
    if not model.reference:
        return text
    reference = {"reference": batch[model.reference]}
    return text | reference | dropout_mask("reference", batch, key, model.reference_dropout)


def check(config: Config) -> None:
    model, frames = _model(config), config.data.frames
    check_transformer(model.width, model.heads)
    require(frames == 1, f"data.frames: a direct generator needs images, not clips of {frames}")
    check_widths("decoder_widths", model.decoder_widths, config.data)
    text_encoder.check_frozen(config)
    require(
        bool(model.reference) or model.reference_dropout == 0,
        "model.reference_dropout: must be 0 where model.reference is empty",
    )
    if model.reference:
        shape, size = image_field(model.reference, config.data).shape, config.data.size
        require(
            shape == (size, size, 3),
            f"model.reference: {model.reference} must have the shape {[size, size, 3]} (data.size), not {list(shape)}",
        )


class DirectGenerator(nn.Module):
    """Encodes text and reference, fuses them and decodes by transposed convolutions.

    Attributes:
        model: the config.
        vocabulary: number of token ids.
        size: side of the image in pixels.
        frozen_text: the text's features are an input, by a text encoder that is not part of the model.
    """

    model: DirectGeneratorConfig
    vocabulary: int
    size: int
    frozen_text: bool = False
    compute: Compute = DEFAULT

    @nn.compact
    def __call__(
        self,
        text: Int[Array, "b t"],
        reference: Float[Array, "b y x c"] | None = None,
        reference_mask: Bool[Array, "b"] | None = None,
        text_features: Float16[Array, "b t e"] | None = None,
    ) -> dict[str, Any]:
        """Generates an image for each text.

        Args:
            text: token ids, 0 is padding.
            reference: images from -1 to 1; None: generates from the text alone.
            reference_mask: False where an example has no reference; None: all have one.
            text_features: of the text, where its encoder is frozen.

        Returns:
            {"image": float32 [b, y, x, 3]}, about -1 to 1.
        """
        m, compute = self.model, self.compute
        if self.frozen_text:
            assert text_features is not None
            features, text_mask = FrozenFeatures(m.width, compute, name="text")(text, text_features)
        else:
            encoder = TextEncoder(self.vocabulary, m.width, m.text_layers, m.heads, compute, name="text")
            features, text_mask = encoder(text)
        patch = 2 ** len(m.decoder_widths)
        rows = self.size // patch
        query_embedding = self.param("query_embedding", nn.initializers.normal(0.02), (m.width,))
        visual = (query_embedding[None] + sincos_grid((rows, rows), m.width))[None].astype(compute.dtype)
        visual = jnp.broadcast_to(visual, (text.shape[0], rows * rows, m.width))
        if reference is not None:
            encoded = VisionEncoder(patch, m.width, m.vision_layers, m.heads, compute, name="vision")(reference)
            kept = True if reference_mask is None else reference_mask[:, None, None]
            visual = jnp.where(kept, encoded, visual)
        fuse = Fusion(m.fusion, m.fusion_layers, m.heads, compute, name="fusion")
        grid = fuse(visual, features, text_mask).reshape(text.shape[0], rows, rows, m.width)
        return {"image": Decoder(m.decoder_widths, compute=compute, name="decoder")(grid)}


MODEL = ModelSpec(
    config=DirectGeneratorConfig,
    build=build,
    inputs=inputs,
    sharding_rules=sharding_rules,
    outputs=lambda config: ("image",),
    check=check,
    prepare=prepare,
    predictions=lambda config: ("image",),
    abilities=lambda config: frozenset({"generate_directly"}),
    components=(TEXT_ENCODER,),
)
