"""Masked generator: predicts masked visual tokens from a text and the unmasked tokens.

After MaskGIT (Chang et al. 2022, arXiv:2202.04200) and Muse (Chang et al. 2023, arXiv:2301.00704). Generation,
inpainting and next frames differ only in which tokens are masked. With the tokens of the same image at a lower
resolution as its reference, it is the super-resolution stage of Muse (section 2.4).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmjax.config import ComponentConfig, Config
from mmjax.config.schema import require
from mmjax.models import text_encoder, visual_tokenizer
from mmjax.models.masked_transformer import MaskedGenerator, MaskedGeneratorConfig
from mmjax.models.rules import STACK, Rules, joined
from mmjax.models.spec import (
    ModelSpec,
    check_transformer,
    dropout_mask,
    image_field,
    method,
    trained_outputs,
)
from mmjax.models.text_encoder import TEXT_ENCODER
from mmjax.models.visual_tokenizer import VisualTokenizerConfig
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.types import Batch, Params

TOKENIZER, REFERENCE = "visual_tokenizer", "reference_tokenizer"  # components

_RULES: Rules = (
    (r"(reference_)?codes/embedding", ("model", "fsdp")),
    (r"(reference_)?codes/digit_\d+", (None, "fsdp")),
    (r"position_\d+/kernel", (None, "fsdp")),
    (r"head/kernel", ("fsdp", "model")),
    (r"mask|reference_type_embedding", ("fsdp",)),
)


def _parts(config: Config) -> tuple[MaskedGeneratorConfig, Config, Config | None, ComponentConfig | None]:
    """The configs of the model, its visual tokenizer, its reference tokenizer, and its frozen text encoder."""
    tokenizer = config.component(TOKENIZER)
    assert isinstance(config.model, MaskedGeneratorConfig) and tokenizer is not None
    return config.model, tokenizer, config.component(REFERENCE), text_encoder.frozen(config)


def build(config: Config, compute: Compute = DEFAULT) -> MaskedGenerator:
    model, tokenizer, reference, frozen = _parts(config)
    return MaskedGenerator(
        model,
        config.text.vocabulary,
        visual_tokenizer.levels(tokenizer),
        visual_tokenizer.grid(tokenizer),
        () if reference is None else visual_tokenizer.levels(reference),
        frozen is not None,
        compute,
    )


def inputs(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    _, tokenizer, reference, _ = _parts(config)
    grid = visual_tokenizer.grid(tokenizer)
    shapes = {"text": jax.ShapeDtypeStruct((1, config.text.length), jnp.int32)}
    shapes |= text_encoder.features_shape(config)
    shapes["codes"] = jax.ShapeDtypeStruct((1, *grid), jnp.int32)
    shapes["masked"] = jax.ShapeDtypeStruct((1, *grid), jnp.bool_)
    if reference is not None:
        shapes["reference_codes"] = jax.ShapeDtypeStruct((1, *visual_tokenizer.grid(reference)), jnp.int32)
    return shapes


def sharding_rules(config: Config) -> Rules:
    model, _, _, frozen = _parts(config)
    local: Rules = ((r"local_\d+/(first|second)/kernel", (None, None, "fsdp", "model")),)
    text = text_encoder.RULES if frozen is None else text_encoder.FROZEN_RULES
    return joined(STACK, local if model.local_blocks else (), text, _RULES)


def prepare(config: Config, batch: Batch, key: jax.Array | None) -> dict[str, Any]:
    """The inputs of the module except `masked`; drops some texts and references in training."""
    model, *_ = _parts(config)
    prepared = {name: batch[name] for name in inputs(config) if name != "masked"}
    prepared |= dropout_mask("text", batch, key, model.text_dropout)
    if "reference_codes" in prepared:
        prepared |= dropout_mask("reference", batch, key, model.reference_dropout)
    return prepared


def check(config: Config) -> None:
    assert isinstance(config.model, MaskedGeneratorConfig)
    model, tokenizer, reference = config.model, config.component(TOKENIZER), config.component(REFERENCE)
    check_transformer(model.width, model.heads)
    require(
        TOKENIZER in config.components,
        f"components.{TOKENIZER}: a masked generator needs a visual tokenizer, as in "
        f"--config.components.{TOKENIZER}=WORKDIR, or the config of one to train first",
    )
    require(
        model.reference_dropout == 0 or REFERENCE in config.components,
        f"model.reference_dropout: needs components.{REFERENCE}",
    )
    if TEXT_ENCODER in config.components:
        require(
            "text_logits" not in trained_outputs(config),
            "losses.masked_language_modeling: cannot train the frozen components.text_encoder; remove one of them",
        )
        text_encoder.check_frozen(config)
    for name, part in ((TOKENIZER, tokenizer), (REFERENCE, reference)):
        require(
            part is None or isinstance(part.model, VisualTokenizerConfig),
            f"components.{name}.config.model.kind: must be visual_tokenizer, not {part.model.kind if part else ''}",
        )
    if tokenizer is not None:
        for field in ("size", "frames"):
            value, expected = getattr(config.data, field), getattr(tokenizer.data, field)
            require(value == expected, f"data.{field}: must be {expected}, as of the visual tokenizer, not {value}")
    if reference is not None:
        _check_reference(config, model.reference, tokenizer, reference)


def _check_reference(config: Config, name: str, tokenizer: Config | None, reference: Config) -> None:
    at = f"components.{REFERENCE}.config"
    require(
        reference.data.frames == config.data.frames,
        f"{at}.data.frames: must be data.frames, {config.data.frames}, not {reference.data.frames}",
    )
    *frames, _, _, channels = image_field(name, config.data).shape
    *expected_frames, _, _, expected_channels = reference.data.image_shape
    require(
        (len(frames), channels) == (len(expected_frames), expected_channels),
        f"model.reference: {name} has {len(frames) + 2} axes and {channels} channels, but {at} encodes images of "
        f"{len(expected_frames) + 2} axes and {expected_channels} channels",
    )
    require(
        name != "image" or reference.data.size <= config.data.size,
        f"{at}.data.size: {reference.data.size} is larger than data.size, {config.data.size}; the reference "
        "must be the image itself or a smaller version",
    )
    if tokenizer is not None:
        strides, expected = (getattr(part.model, "time_strides", ()) for part in (reference, tokenizer))
        require(
            bool(strides) == bool(expected),
            f"{at}.model.time_strides: {list(strides)}, but the visual tokenizer has {list(expected)}; both or neither "
            "must encode clips",
        )


@dataclass(frozen=True)
class ModelFns:
    """Pure functions of a generator and its visual tokenizer, for sampling.

    Attributes:
        context: (params, text, **inputs) -> features and their mask; see MaskedGenerator.context.
        logits: (params, codes, masked, *context) -> logits of every code.
        encode: (tokenizer's params, images or clips) -> grids of codes.
        encode_reference: (reference tokenizer's params, images or clips of any size) -> grids of codes.
        reference: name of the data's image field that is encoded as the reference.
        decode: (tokenizer's params, codes) -> images or clips.
        grid: shape of an example's codes.
    """

    context: Callable[..., Any]
    logits: Callable[..., jax.Array]
    encode: Callable[..., jax.Array]
    encode_reference: Callable[..., jax.Array] | None
    reference: str
    decode: Callable[..., jax.Array]
    grid: tuple[int, ...]


def model_fns(config: Config, compute: Compute = DEFAULT) -> ModelFns:
    model, tokenizer_config, reference, _ = _parts(config)
    generator, tokenizer = build(config, compute), visual_tokenizer.build(tokenizer_config, compute)

    def decode(params: Params, codes: jax.Array) -> jax.Array:
        return visual_tokenizer.as_in_data(config, method(tokenizer, "decode")(params, codes))

    def encode_reference(params: Params, image: Float[Array, "b *pixels c"]) -> Int[Array, "b *grid"]:
        assert reference is not None
        size = reference.data.size
        # Antialiased triangle filter, as the data pipeline resizes.
        resized = jax.image.resize(image, (*image.shape[:-3], size, size, image.shape[-1]), "linear")
        codes: jax.Array = method(visual_tokenizer.build(reference, compute), "encode")(params, resized)
        return codes

    return ModelFns(
        context=method(generator, "context"),
        logits=method(generator, "logits"),
        encode=method(tokenizer, "encode"),
        encode_reference=None if reference is None else encode_reference,
        reference=model.reference,
        decode=decode,
        grid=visual_tokenizer.grid(tokenizer_config),
    )


MODEL = ModelSpec(
    config=MaskedGeneratorConfig,
    build=build,
    inputs=inputs,
    sharding_rules=sharding_rules,
    outputs=lambda config: ("logits", "text_logits"),
    check=check,
    prepare=prepare,
    predictions=lambda config: ("image",),
    abilities=lambda config: frozenset({"generate"}),
    components=(TOKENIZER, REFERENCE, TEXT_ENCODER),
    model_fns=model_fns,
)
