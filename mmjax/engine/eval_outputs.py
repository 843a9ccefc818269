"""What evaluators see of a model: its outputs, and what it draws or writes where one of them looks at it."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import data, evaluate
from mmjax.config import Config, MaskedGeneratorConfig, VisionLanguageConfig
from mmjax.export.describing import text_decoding
from mmjax.export.model import decoding_of
from mmjax.models import masked_generator, vision_language
from mmjax.nn.partitioner import Partitioner
from mmjax.sample.masked import make_sampler
from mmjax.sample.text import make_text_generator
from mmjax.types import HOST_FIELDS, PADDING, Batch, Params

Predicted = Callable[..., dict[str, jax.Array]]
# Outputs of a model of images and texts that evaluators read; the others are large.
_KEPT = ("image_embedding", "text_embedding", "class_logits", "loss")


def seen_by_evaluators(config: Config, predict: Predicted, partitioner: Partitioner) -> Predicted:
    """The pure function (params, batch, frozen) -> what evaluators see, of the one that gives all outputs.

    Of a masked generator no logits, but what it draws; of a model that writes, the token ids of "caption" and "answer".
    """
    if isinstance(config.model, MaskedGeneratorConfig):
        return _drawing(config, predict, partitioner)
    if isinstance(config.model, VisionLanguageConfig):
        return _writing(config, predict, partitioner)
    return predict


def _drawing(config: Config, predict: Predicted, partitioner: Partitioner) -> Predicted:
    draw = make_sampler(masked_generator.model_fns(config, partitioner), decoding_of(config))
    looks = evaluate.DRAWN.intersection(evaluate.build(config))

    def drawn(params: Params, batch: Batch, frozen: Mapping[str, Any]) -> dict[str, jax.Array]:
        outputs = {name: value for name, value in predict(params, batch).items() if not name.endswith("logits")}
        if not looks:
            return outputs
        codes = batch["codes"]
        seeds = batch.get("seed", jnp.arange(len(codes), dtype=jnp.int32))
        everything = jnp.ones_like(codes, jnp.bool_)
        guidance = jnp.float32(config.sampling.guidance)
        text = batch["text"] if config.sampling.guidance > 0 else jnp.zeros_like(batch["text"])
        given = {name: batch[name] for name in ("reference_codes", "text_features") if name in batch}
        image = draw(params, frozen["tokenizer"], text, codes, everything, seeds, guidance, **given)
        return outputs | {"image": image}

    return drawn


def _writing(config: Config, predict: Predicted, partitioner: Partitioner) -> Predicted:
    write = make_text_generator(vision_language.model_fns(config, partitioner), text_decoding(config))
    asked = {evaluate.WRITTEN[name] for name in evaluate.build(config) if name in evaluate.WRITTEN}

    def written(params: Params, batch: Batch, frozen: Mapping[str, Any]) -> dict[str, jax.Array]:
        outputs = predict(params, batch, frozen)
        outputs = {name: x for name, x in outputs.items() if name in _KEPT or name.startswith("terms/")}
        image = batch.get("image")
        seeds = batch.get("seed", jnp.arange(len(batch["mask"]), dtype=jnp.int32))
        if "caption" in asked:
            outputs["caption"] = write(params, image, None, seeds)
        if "answer" in asked:
            outputs["answer"] = write(params, image, batch["question"], seeds)
        return outputs

    return written


def encoded(batch: Batch, tokenizer: data.Tokenizer, length: int) -> Batch:
    """The fields that go to the devices; texts and questions that are given as strings become token ids.

    No text at all is all padding.
    """
    fields = {name: value for name, value in batch.items() if name not in HOST_FIELDS}
    for name in ("text", "question"):
        if isinstance(fields.get(name), list):
            there = np.array([text != "" for text in fields[name]])
            fields[name] = np.where(there[:, None], tokenizer.encode(fields[name], length), PADDING)
    return fields


def decoded(outputs: dict[str, Any], tokenizer: data.Tokenizer) -> dict[str, Any]:
    """The outputs with token ids as texts."""
    texts = {name: tokenizer.decode(outputs[name]) for name in ("caption", "answer") if name in outputs}
    return outputs | texts
