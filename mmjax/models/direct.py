"""The direct generator: text and, where there is one, a reference image in; one image out, in one pass.

Trained by mean squared error it draws the mean of all images that fit the text: exact where the text determines the
image, blurred where it does not. It is the baseline that every other generator must beat.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mmjax.config import Config, model_fields
from mmjax.models import fusion, text_encoder, vision_encoder
from mmjax.models.decoder import Decoder
from mmjax.models.fusion import make_fusion
from mmjax.models.rules import Rules, joined
from mmjax.models.text_encoder import TextEncoder
from mmjax.models.vision_encoder import VisionEncoder
from mmjax.nn.partitioner import UNSHARDED, Partitioner
from mmjax.nn.positions import sincos_2d

# Where the parameters of both ends lie on the mesh; see models/rules.py.
_ENDS: Rules = (
    (r"query_embedding", ("fsdp",)),
    (r"decoder/upsample_\d+/kernel", (None, None, "fsdp", "model")),
    (r"decoder/pixels/kernel", (None, None, "fsdp", None)),
)


def build(config: Config, partitioner: Partitioner = UNSHARDED) -> "DirectGenerator":
    assert isinstance(config.model, model_fields.DirectGeneratorConfig)
    return DirectGenerator(config.model, config.text.vocabulary, config.data.size, partitioner)


def inputs(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    assert isinstance(config.model, model_fields.DirectGeneratorConfig)
    found = {"text": jax.ShapeDtypeStruct((1, config.text.length), jnp.int32)}
    if config.model.reference:
        found["reference"] = jax.ShapeDtypeStruct((1, config.data.size, config.data.size, 3), jnp.float32)
    return found


def sharding_rules(config: Config) -> Rules:
    assert isinstance(config.model, model_fields.DirectGeneratorConfig)
    vision = vision_encoder.rules() if config.model.reference else ()
    return joined(text_encoder.RULES, vision, fusion.RULES[config.model.fusion], _ENDS)


class DirectGenerator(nn.Module):
    """Text and reference are encoded, fused, decoded by transposed convolutions.

    Attributes:
        model: the configuration.
        vocabulary: number of token ids.
        size: side of the image in pixels.
        partitioner: of the activations on the devices.
    """

    model: model_fields.DirectGeneratorConfig
    vocabulary: int
    size: int
    partitioner: Partitioner = UNSHARDED

    @nn.compact
    def __call__(
        self,
        text: Int[Array, "b t"],
        reference: Float[Array, "b y x c"] | None = None,
        reference_mask: Bool[Array, "b"] | None = None,
    ) -> dict[str, Any]:
        """Draws an image for each text.

        Args:
            text: token ids, 0 is padding.
            reference: images to start from, -1 to 1; None draws from the text alone.
            reference_mask: False where an example has no reference; None: all have one.

        Returns:
            {"image": float32 [b, y, x, 3]}, about -1 to 1.
        """
        m, dtype, partitioner = self.model, jnp.dtype(self.model.dtype), self.partitioner
        encoder: dict[str, Any] = {"width": m.width, "heads": m.heads, "dtype": dtype, "kernel": m.attention}
        encoder["partitioner"] = partitioner
        features, text_mask = TextEncoder(
            self.vocabulary, layers=m.text_layers, **encoder, unroll=m.text_layers, name="text"
        )(text)
        rows = self.size // 2 ** len(m.decoder_widths)
        query_embedding = self.param("query_embedding", nn.initializers.normal(0.02), (m.width,))
        visual = (query_embedding[None] + sincos_2d(rows, rows, m.width))[None].astype(dtype)
        visual = jnp.broadcast_to(visual, (text.shape[0], rows * rows, m.width))
        if reference is not None:
            patch = 2 ** len(m.decoder_widths)
            form: dict[str, Any] = {"convolution": m.convolution, "unroll": m.vision_layers}
            seen = VisionEncoder(patch, layers=m.vision_layers, **encoder, **form, name="vision")(reference)
            given = True if reference_mask is None else reference_mask[:, None, None]
            visual = jnp.where(given, seen, visual)
        fuse = make_fusion(
            m.fusion, m.fusion_layers, m.heads, dtype, m.attention, partitioner, unroll=m.fusion_layers, name="fusion"
        )
        grid = fuse(visual, features, text_mask).reshape(text.shape[0], rows, rows, m.width)
        decoder = Decoder(
            m.decoder_widths, convolution=m.convolution, dtype=dtype, partitioner=partitioner, name="decoder"
        )
        return {"image": decoder(grid)}
