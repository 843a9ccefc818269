"""Sizes of models, and what each kind of model can be trained by, of and with."""

import math

from mmjax.config.check_data import above_0, need, not_below_0
from mmjax.config.fields import Config
from mmjax.config.model_fields import (
    DirectGeneratorConfig,
    MaskedGeneratorConfig,
    VisionLanguageConfig,
    VisualTokenizerConfig,
)

_OF_IMAGES = ("mean_absolute_error", "mean_squared_error", "perceptual")
# The terms of an objective that each kind of model can be trained by.
_TERMS: dict[type, tuple[str, ...]] = {
    DirectGeneratorConfig: _OF_IMAGES,
    VisualTokenizerConfig: (*_OF_IMAGES, "adversarial", "feature_matching"),
    MaskedGeneratorConfig: ("masked_visual_modeling", "masked_language_modeling"),
    VisionLanguageConfig: (
        "contrastive",
        "sigmoid_contrastive",
        "matching",
        "captioning",
        "answering",
        "classification",
        "masked_language_modeling",
        "masked_patch_modeling",
    ),
}


def check_model(config: Config) -> None:
    """Raises UserError for the first that is impossible."""
    _check_terms(config)
    _check_corruption(config)
    _check_reference(config)
    _check_text_encoder(config)
    if isinstance(config.model, DirectGeneratorConfig):
        _check_direct(config, config.model)
    elif isinstance(config.model, VisualTokenizerConfig):
        _check_visual_tokenizer(config, config.model)
    elif isinstance(config.model, VisionLanguageConfig):
        _check_vision_language(config, config.model)
    else:
        _check_masked_generator(config, config.model)


def _check_terms(config: Config) -> None:
    """Terms that are for other kinds of models; unknown ones are told by mmjax/losses, which knows them all."""
    mine, known = _TERMS[type(config.model)], {name for names in _TERMS.values() for name in names}
    for name in config.objective.terms:
        need(
            name in mine or name not in known,
            f"objective.terms.{name}: is not for model.kind={config.model.kind}, which takes {', '.join(mine)}",
        )


def _check_corruption(config: Config) -> None:
    need(
        config.objective.code_noise_prob == 0 or isinstance(config.model, VisualTokenizerConfig),
        "objective.code_noise_prob: is for a visual_tokenizer, which has codes to decode",
    )


def _check_reference(config: Config) -> None:
    named, reference = config.tokens.reference, config.reference
    if reference is None and not named:
        return
    name = "tokens.reference" if named else "reference"
    need(
        isinstance(config.model, MaskedGeneratorConfig),
        f"{name}: is for model.kind=masked_generator, not {config.model.kind}",
    )
    if reference is None:
        return
    need(
        isinstance(reference.model, VisualTokenizerConfig),
        f"reference.model.kind: must be visual_tokenizer, not {reference.model.kind}",
    )
    need(
        reference.data.size <= config.data.size,
        f"reference.data.size: {reference.data.size} is larger than data.size, {config.data.size}; a reference is the "
        "image itself or a smaller one",
    )
    need(
        reference.data.frames == config.data.frames,
        f"reference.data.frames: must be data.frames, {config.data.frames}, not {reference.data.frames}",
    )
    if config.tokenizer is not None:
        strides = [getattr(part.model, "time_strides", ()) for part in (config.tokenizer, reference)]
        need(
            bool(strides[0]) == bool(strides[1]),
            f"reference.model.time_strides: {list(strides[1])} does not go with those of the visual tokenizer, "
            f"{list(strides[0])}; both or neither must code frames",
        )


def _check_text_encoder(config: Config) -> None:
    if not config.tokens.text_encoder:
        need(
            config.text_encoder is None,
            "text_encoder: is filled in from a trained model; name it with --config.tokens.text_encoder=DIR",
        )
        return
    need(
        isinstance(config.model, MaskedGeneratorConfig),
        f"tokens.text_encoder: is for model.kind=masked_generator, not {config.model.kind}",
    )
    need(
        "masked_language_modeling" not in config.objective.terms,
        "objective.terms.masked_language_modeling: trains the text encoder, and that of tokens.text_encoder is taken "
        "as it is; leave one of them out",
    )


def _check_direct(config: Config, model: DirectGeneratorConfig) -> None:
    _check_transformer(model, ("width", "heads", "text_layers", "vision_layers", "fusion_layers"))
    need(config.data.frames == 1, f"data.frames: a direct generator draws images, not clips of {config.data.frames}")
    _check_widths(config, "decoder_widths", model.decoder_widths)
    need(
        model.reference or config.objective.reference_dropout == 0,
        "objective.reference_dropout: there is no reference to drop while model.reference is false",
    )


def _check_visual_tokenizer(config: Config, model: VisualTokenizerConfig) -> None:
    not_below_0({"model.blocks": model.blocks})
    _check_widths(config, "widths", model.widths)
    strides = model.time_strides
    need(
        not strides or (len(strides) == len(model.widths) and set(strides) <= {1, 2}),
        f"model.time_strides: needs 1 or 2 for each of the {len(model.widths)} widths, or nothing, not {list(strides)}",
    )
    need(
        bool(strides) or config.data.frames == 1,
        f"model.time_strides: clips of {config.data.frames} frames need one for each width, as in "
        f"{(1,) * (len(model.widths) - 1) + (2,)}",
    )
    need(
        len(model.levels) > 0 and min(model.levels) >= 2,
        "model.levels: needs at least one, each above 1",
    )
    need(
        math.prod(model.levels) <= 2**24,
        f"model.levels: {math.prod(model.levels):,} codes are more than 2 ** 24, as many as can be told apart",
    )
    need(
        config.objective.reference_dropout == 0,
        "objective.reference_dropout: a visual tokenizer takes no reference image",
    )


def _check_vision_language(config: Config, model: VisionLanguageConfig) -> None:
    _check_transformer(
        model,
        (
            "patch",
            "time",
            "width",
            "heads",
            "layers",
            "text_layers",
            "fusion_layers",
            "decoder_layers",
            "embedding",
            "unroll",
        ),
    )
    not_below_0({f"model.{name}": getattr(model, name) for name in ("registers", "classes")})
    terms, size = config.objective.terms, config.data.size
    need(
        size % model.patch == 0 or config.data.source == "audio_folder",
        f"model.patch: {model.patch} does not divide data.size, {size}",
    )
    images = config.data.frames == 1 and config.data.source != "audio_folder"
    need(
        model.encoder == "vit" or images,
        "model.encoder: resnet is for images; set it to vit for clips and sounds",
    )
    need(
        not model.stem or (min(model.stem) > 0 and model.patch % 2 ** len(model.stem) == 0),
        f"model.stem: {list(model.stem)} halves the sides {len(model.stem)} times, each with at least one channel, and "
        f"model.patch={model.patch} must be a multiple of {2 ** len(model.stem)}",
    )
    need(
        "masked_patch_modeling" not in terms or (model.encoder == "vit" and images),
        "objective.terms.masked_patch_modeling: is for images and model.encoder=vit",
    )
    need(
        "classification" not in terms or model.classes > 1,
        f"model.classes: the term classification needs at least 2, not {model.classes}",
    )
    need(
        "matching" not in terms or bool({"contrastive", "sigmoid_contrastive"}.intersection(terms)),
        "objective.terms.matching: takes the pairs that contrastive finds hard to tell; add contrastive",
    )
    need(
        not {"contrastive", "sigmoid_contrastive"} <= set(terms),
        "objective.terms: contrastive and sigmoid_contrastive are two losses for the same; take one",
    )


def _check_masked_generator(config: Config, model: MaskedGeneratorConfig) -> None:
    _check_transformer(model, ("width", "heads", "layers", "text_layers", "unroll"))
    not_below_0({"model.local_blocks": model.local_blocks})
    need(
        config.objective.reference_dropout == 0 or config.reference is not None or bool(config.tokens.reference),
        "objective.reference_dropout: there is no reference to drop without the visual tokenizer of one, as in "
        "--config.tokens.reference=WORKDIR",
    )
    tokenizer = config.tokenizer
    need(
        tokenizer is not None or bool(config.tokens.tokenizer),
        "tokens.tokenizer: a masked generator needs a trained visual tokenizer, as in "
        "--config.tokens.tokenizer=WORKDIR, or the config of one in `tokenizer`",
    )
    if tokenizer is None:
        return
    need(
        isinstance(tokenizer.model, VisualTokenizerConfig),
        f"tokenizer.model.kind: must be visual_tokenizer, not {tokenizer.model.kind}",
    )
    for name in ("size", "frames"):
        ours, theirs = getattr(config.data, name), getattr(tokenizer.data, name)
        need(ours == theirs, f"data.{name}: {ours}, but the visual tokenizer was made for {theirs}")


def _check_transformer(
    model: DirectGeneratorConfig | MaskedGeneratorConfig | VisionLanguageConfig, positive: tuple[str, ...]
) -> None:
    above_0({f"model.{name}": getattr(model, name) for name in positive})
    need(
        model.attention != "cudnn" or model.dtype == "bfloat16",
        "model.attention: cudnn computes in 16 bits; set model.dtype to bfloat16",
    )
    need(model.width % model.heads == 0, f"model.heads: {model.heads} does not divide model.width, {model.width}")
    need(
        model.width % 4 == 0,
        f"model.width: must be a multiple of 4 (sine positions in two directions), not {model.width}",
    )


def _check_widths(config: Config, name: str, widths: tuple[int, ...]) -> None:
    need(len(widths) > 0 and min(widths) > 0, f"model.{name}: needs at least one width, each above 0")
    cell, size = 2 ** len(widths), config.data.size
    need(size % cell == 0, f"data.size: must be a multiple of {cell}, for {len(widths)} {name}, not {size}")
