"""What a model of images and texts needs for the terms of its objective: inputs, encoders, sharding rules."""

import math
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from mmjax.config import Config, DataConfig, model_fields
from mmjax.models import fusion, resnet, text_decoder, text_encoder, video_encoder, vision_encoder
from mmjax.models.rules import POOLING, Rules, joined

Terms = Iterable[str]  # of an objective, by name


def has_contrastive(terms: Terms) -> bool:
    """Whether these terms of an objective compare embeddings."""
    return bool({"contrastive", "sigmoid_contrastive"}.intersection(terms))


def inputs(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    assert isinstance(config.model, model_fields.VisionLanguageConfig)
    terms = config.objective.terms
    text = jax.ShapeDtypeStruct((1, config.text.length), jnp.int32)
    found = {}
    if "image" in required_encoders(config.model, terms):
        found["image"] = jax.ShapeDtypeStruct((1, *image_shape(config.data)), jnp.float32)
        if config.model.encoder == "resnet":
            found["rows"] = jax.ShapeDtypeStruct((1,), jnp.bool_)
    if has_contrastive(terms) or {"captioning", "masked_language_modeling"}.intersection(terms):
        found["text"] = text
    if "classification" in terms and config.model.classify == "text":
        found["text"] = text
    if "answering" in terms:
        found["answer"] = text
    if "answering" in terms or ("classification" in terms and config.model.classify == "question"):
        found["question"] = text
    return found


def image_shape(data: DataConfig) -> tuple[int, ...]:
    """Of an image, a clip, or a sound as an image."""
    return data.image_shape


def grid(config: Config) -> tuple[int, ...]:
    """Places that the text decoder looks at: (rows, columns), for clips (frames, rows, columns)."""
    model = config.model
    assert isinstance(model, model_fields.VisionLanguageConfig)
    *frames, rows, columns, _ = image_shape(config.data)
    side = resnet.STRIDE if model.encoder == "resnet" else model.patch
    return *(math.ceil(f / model.time) for f in frames), math.ceil(rows / side), math.ceil(columns / side)


def sharding_rules(config: Config) -> Rules:
    model, terms = config.model, config.objective.terms
    assert isinstance(model, model_fields.VisionLanguageConfig)
    seen, pools = required_encoders(model, terms), has_contrastive(terms) or "classification" in terms
    parts: list[Rules] = []
    if "image" in seen:
        parts += [resnet.RULES] if model.encoder == "resnet" else _of_transformer(config)
    if "text" in seen:
        parts.append(text_encoder.RULES)
    if uses_fusion(model, terms):
        parts.append(fusion.RULES[model.fusion])
    if pools or "matching" in terms:
        parts.append(POOLING)
    if has_contrastive(terms):
        parts.append(((r"(image|text)_projection/kernel", ("fsdp", None)), (r"log_scale", ())))
    if "sigmoid_contrastive" in terms:
        parts.append(((r"offset", ()),))
    if has_decoder(terms):
        parts.append(text_decoder.RULES)
    heads = {"matching": "match_head", "classification": "class_head", "masked_patch_modeling": "patch_head"}
    parts += [((rf"{head}/kernel", ("fsdp", None)),) for term, head in heads.items() if term in terms]
    return joined(*parts)


def _of_transformer(config: Config) -> list[Rules]:
    model = config.model
    assert isinstance(model, model_fields.VisionLanguageConfig)
    if config.data.frames > 1:
        return [video_encoder.RULES]
    masking = "masked_patch_modeling" in config.objective.terms
    return [vision_encoder.rules(model.registers, masking, model.stem)]


def uses_fusion(model: model_fields.VisionLanguageConfig, terms: Terms) -> bool:
    """Whether these terms of an objective need images and texts together."""
    asked = "classification" in terms and model.classify == "question"
    return asked or bool({"matching", "answering"}.intersection(terms))


def required_encoders(model: model_fields.VisionLanguageConfig, terms: Terms) -> set[str]:
    """Which encoders these terms of an objective need: "image", "text"."""
    needs = {
        "contrastive": {"image", "text"},
        "sigmoid_contrastive": {"image", "text"},
        "matching": {"image", "text"},
        "captioning": {"image"},
        "answering": {"image", "text"},
        "masked_language_modeling": {"text"},
        "masked_patch_modeling": {"image"},
        "classification": {"image": {"image"}, "text": {"text"}, "question": {"image", "text"}}[model.classify],
    }
    return set().union(*(needs[term] for term in terms))


def has_decoder(terms: Terms) -> bool:
    """Whether these terms of an objective train the text decoder."""
    return bool({"captioning", "answering"}.intersection(terms))
