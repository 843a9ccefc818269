"""Vision-language model: contrastive embeddings, matching, classification, captions and answers."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mmjax.config import Config
from mmjax.config.pretrained_fields import VISION_ENCODER
from mmjax.config.schema import require
from mmjax.models import fusion, pretrained_encoder, resnet, text_decoder, text_encoder, vision_encoder
from mmjax.models.pretrained_encoder import TOWER_NAME, Tower, tower_rules
from mmjax.models.rules import POOLING, Rules, joined
from mmjax.models.spec import ModelSpec, check_transformer, method, trained_outputs
from mmjax.models.text_decoder import gather_cache
from mmjax.models.vision_language_network import PARTS, VisionLanguage, VisionLanguageConfig, required_parts
from mmjax.nn.compute import DEFAULT, Compute
from mmjax.types import Batch


def _model(config: Config) -> VisionLanguageConfig:
    assert isinstance(config.model, VisionLanguageConfig)
    return config.model


def build(config: Config, compute: Compute = DEFAULT) -> VisionLanguage:
    shape, outputs = config.data.image_shape, trained_outputs(config)
    return VisionLanguage(_model(config), config.text.vocabulary, outputs, shape, grid(config), compute, _tower(config))


def _tower(config: Config) -> Tower | None:
    return pretrained_encoder.tower(config, _model(config).fine_tune)


def frozen(config: Config) -> tuple[str, ...]:
    """The pretrained image encoder; where it is trained, only what does not change the features of patches."""
    tower = _tower(config)
    if tower is None:
        return ()
    return (rf"{TOWER_NAME}/(.*/)?(classifier|head|pooler|projection)/.*" if tower.trained else f"{TOWER_NAME}/.*",)


def inputs(config: Config) -> dict[str, jax.ShapeDtypeStruct]:
    model, outputs = _model(config), trained_outputs(config)
    parts = required_parts(model, outputs)
    text = jax.ShapeDtypeStruct((1, config.text.length), jnp.int32)
    shapes = {}
    if "vision" in parts:
        shapes["image"] = jax.ShapeDtypeStruct((1, *config.data.image_shape), jnp.float32)
        if model.encoder == "resnet" and _tower(config) is None:
            shapes["rows"] = jax.ShapeDtypeStruct((1,), jnp.bool_)
    classify = model.classify if "class_logits" in outputs else ""
    if "contrastive" in parts or {"caption_logits", "text_logits"} & outputs or classify == "text":
        shapes["text"] = text
    if "answer_logits" in outputs:
        shapes["answer"] = text
    if "answer_logits" in outputs or classify == "question":
        shapes["question"] = text
    return shapes


def prepare(config: Config, batch: Batch, key: jax.Array | None) -> dict[str, Any]:
    """The inputs that are fields of the batch; for a ResNet also the valid rows of its batch statistics."""
    prepared = {name: batch["mask" if name == "rows" else name] for name in inputs(config)}
    return prepared | ({"training": key is not None} if "rows" in prepared else {})


def check(config: Config) -> None:
    model, outputs, size = _model(config), trained_outputs(config), config.data.size
    check_transformer(model.width, model.heads)
    require(
        "class_logits" not in outputs or model.classes > 1,
        f"model.classes: classification needs at least 2, not {model.classes}",
    )
    if VISION_ENCODER in config.components:
        return _check_tower(config)
    require(
        not model.fine_tune,
        f"model.fine_tune: needs components.{VISION_ENCODER}; mmjax's own encoder is always trained",
    )
    sounds = config.data.image_shape[-1] == 1
    require(size % model.patch == 0 or sounds, f"model.patch: {model.patch} does not divide data.size, {size}")
    images = config.data.frames == 1 and not sounds
    require(model.encoder == "vit" or images, "model.encoder: resnet encodes images only; set vit for clips and sounds")
    require(
        model.patch % 2 ** len(model.stem) == 0,
        f"model.stem: {list(model.stem)} halves the sides {len(model.stem)} times, so model.patch must be a multiple "
        f"of {2 ** len(model.stem)}, not {model.patch}",
    )
    require(
        "patches" not in outputs or (model.encoder == "vit" and images),
        "losses.masked_patch_modeling: needs images and model.encoder=vit",
    )


def _check_tower(config: Config) -> None:
    require(
        config.components[VISION_ENCODER].config is None,
        f"components.{VISION_ENCODER}: name a folder in Hugging Face's layout, not a config; a trained encoder of "
        "mmjax's own is taken on by train.init_from",
    )
    if (tower := _tower(config)) is None:
        return  # its path is not read yet
    name, size = f"components.{VISION_ENCODER}: {tower.spec.name}", config.data.size
    images = config.data.frames == 1 and config.data.image_shape[-1] == 3
    require(images, f"{name} encodes images only, no clips and no sounds")
    require(size % tower.patch == 0, f"data.size: must be a multiple of {tower.patch}, the patches of {name}")
    require(
        "patches" not in trained_outputs(config),
        f"losses.masked_patch_modeling: is not for components.{VISION_ENCODER}; remove one of them",
    )


def predictions(config: Config) -> tuple[str, ...]:
    decoded = {"caption_logits": "caption", "answer_logits": "answer"}
    kept = ("caption_logits", "answer_logits", "class_logits", "image_embedding", "text_embedding")
    outputs = trained_outputs(config)
    return tuple(decoded.get(name, name) for name in kept if name in outputs)


def abilities(config: Config) -> frozenset[str]:
    ability_of = {"caption_logits": "caption", "answer_logits": "answer", "image_embedding": "embed"}
    return frozenset(ability_of[name] for name in trained_outputs(config) if name in ability_of)


def grid(config: Config) -> tuple[int, ...]:
    """Shape of the grid of visual tokens: (rows, columns), for clips (frames, rows, columns)."""
    model = _model(config)
    *frames, rows, columns, _ = config.data.image_shape
    tower = _tower(config)
    side = tower.patch if tower else resnet.STRIDE if model.encoder == "resnet" else model.patch
    return *(math.ceil(f / model.time) for f in frames), math.ceil(rows / side), math.ceil(columns / side)


def sharding_rules(config: Config) -> Rules:
    model, outputs, tower = _model(config), trained_outputs(config), _tower(config)
    images = vision_encoder.rules(model.registers, "patches" in outputs, model.stem)
    vision = images if config.data.frames == 1 else vision_encoder.VIDEO_RULES
    projections: Rules = ((r"(image|text)_projection/kernel", ("fsdp", None)), (r"log_scale", ()))
    tables: dict[str, Rules] = {
        "vision": tower_rules(tower) if tower else resnet.RULES if model.encoder == "resnet" else vision,
        "text": text_encoder.RULES,
        "fusion": fusion.RULES[model.fusion],
        "contrastive": (*POOLING, *projections),
        "offset": ((r"offset", ()),),
        "decoder": text_decoder.RULES,
        "match_logits": (*POOLING, (r"match_head/kernel", ("fsdp", None))),
        "class_logits": (*POOLING, (r"class_head/kernel", ("fsdp", None))),
        "patches": ((r"patch_head/kernel", ("fsdp", None)),),
    }
    used = required_parts(model, outputs) | outputs
    return joined(*(table for name, table in tables.items() if name in used))


@dataclass(frozen=True)
class ModelFns:
    """Pure functions of a model, for captions, answers and embeddings.

    Attributes:
        context: (params, image, question or None) -> features that the text decoder attends to.
        prefill: (params, context, length) -> logits of the first token, and a cache.
        step: (params, token, cache) -> logits of the next token, and the cache.
        gather_cache: (cache, rows) -> cache of these rows.
        embed_image, embed_text: (params, image or text) -> embedding.
        attention_maps: (params, image, text, question or None) -> attention of the text decoder over the image for
            each token of the text, [b, t, n].
    """

    context: Callable[..., jax.Array]
    prefill: Callable[..., Any]
    step: Callable[..., Any]
    gather_cache: Callable[..., Any]
    embed_image: Callable[..., jax.Array]
    embed_text: Callable[..., jax.Array]
    attention_maps: Callable[..., jax.Array]


def model_fns(config: Config, compute: Compute = DEFAULT) -> ModelFns:
    module = build(config, compute)

    def attention_maps(
        params: Any, image: jax.Array, text: Int[Array, "b t"], question: Int[Array, "b q"] | None = None
    ) -> Float[Array, "b t n"]:
        context = method(module, "context")(params, image, question)
        decode = method(module, lambda module, *args: module.decoder(*args))
        _, sown = decode(params, text, context, mutable=["attention_maps"])
        ((q, k),) = sown["attention_maps"]["decoder"]["stack"]["block"]["cross_attention"]["queries_keys"]
        scaled = q.astype(jnp.float32) * jnp.float32(q.shape[-1] ** -0.5)
        logits = jnp.einsum("lbthk,lbnhk->lhbtn", scaled, k.astype(jnp.float32))  # l: layers
        return jnp.mean(jax.nn.softmax(logits), axis=(0, 1))

    return ModelFns(
        context=method(module, "context"),
        prefill=method(module, lambda module, *args: module.decoder.prefill(*args)),
        step=method(module, lambda module, *args: module.decoder.step(*args)),
        gather_cache=gather_cache,
        embed_image=method(module, "embed_image"),
        embed_text=method(module, "embed_text"),
        attention_maps=attention_maps,
    )


MODEL = ModelSpec(
    config=VisionLanguageConfig,
    build=build,
    inputs=inputs,
    sharding_rules=sharding_rules,
    outputs=lambda config: tuple(PARTS),
    check=check,
    prepare=prepare,
    predictions=predictions,
    abilities=abilities,
    components=(VISION_ENCODER,),
    frozen=frozen,
    model_fns=model_fns,
)
