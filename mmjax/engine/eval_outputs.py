"""Model outputs for evaluators, with samples and generated text if one of them reads them."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import data, evaluate, models, registry
from mmjax.config import Config
from mmjax.models.masked_generator import TOKENIZER
from mmjax.nn.compute import Compute
from mmjax.sample.text import TextDecoding, make_text_generator
from mmjax.types import HOST_FIELDS, PADDING, Batch, Params

Predict = Callable[..., dict[str, jax.Array]]


def with_predictions(config: Config, predict: Predict, compute: Compute) -> Predict:
    """Returns the pure function (params, batch, frozen) -> outputs that the config's evaluators read.

    Args:
        predict: returns all outputs of the module, and the losses.
    """
    spec, available = models.find(config), models.find(config).predictions(config)
    wanted = {
        name
        for each in evaluate.find(config).values()
        for name in (*each.predictions, *each.shows)
        if name in available
    }
    sample = decode = None
    if "image" in wanted and "image" not in spec.outputs(config):
        sample = _sampler(config, compute)
    if {"caption", "answer"} & wanted:
        assert spec.model_fns
        decode = make_text_generator(spec.model_fns(config, compute), TextDecoding.of(config))

    def predictions(params: Params, batch: Batch, frozen: Mapping[str, Any]) -> dict[str, jax.Array]:
        outputs = predict(params, batch, frozen)
        outputs = {name: x for name, x in outputs.items() if name in (*wanted, "loss") or name.startswith("terms/")}
        seeds = batch["seed"] if "seed" in batch else (batch["key"] >> 1).astype(jnp.int32)
        if sample:
            outputs["image"] = sample(params, batch, frozen, seeds)
        if decode and "caption" in wanted:
            outputs["caption"] = decode(params, batch["image"], seeds)
        if decode and "answer" in wanted:
            outputs["answer"] = decode(params, batch["image"], seeds, batch["question"])
        return outputs

    return predictions


def _sampler(config: Config, compute: Compute) -> Callable[..., jax.Array]:
    """Returns the pure function (params, batch, frozen, seeds) -> images, one per text."""
    spec, sampling = models.find(config), config.sampling
    assert spec.model_fns
    make = registry.find("sampler", sampling.kind, "sampling.kind").make
    draw = make(spec.model_fns(config, compute), sampling)
    more = [name for name in spec.inputs(config) if name not in ("text", "codes", "masked")]

    def sample(params: Params, batch: Batch, frozen: Mapping[str, Any], seeds: jax.Array) -> jax.Array:
        codes = batch["codes"]
        everything = jnp.ones_like(codes, jnp.bool_)
        text = batch["text"] if sampling.guidance > 0 else jnp.zeros_like(batch["text"])
        conditions = {name: batch[name] for name in more if name in batch}
        guidance = jnp.float32(sampling.guidance)
        image: jax.Array = draw(params, frozen[TOKENIZER], text, codes, everything, seeds, guidance, **conditions)
        return image

    return sample


def encoded(batch: Batch, tokenizer: data.Tokenizer, length: int) -> Batch:
    """Fields for the devices, with texts and questions as token ids; an empty string is all padding."""
    fields = {name: value for name, value in batch.items() if name not in HOST_FIELDS}
    for name in ("text", "question"):
        if isinstance(fields.get(name), list):
            has_text = np.array([text != "" for text in fields[name]])
            fields[name] = np.where(has_text[:, None], tokenizer.encode(fields[name], length), PADDING)
    return fields


def decoded(outputs: dict[str, Any], tokenizer: data.Tokenizer) -> dict[str, Any]:
    """Outputs with generated token ids decoded to texts."""
    texts = {name: tokenizer.decode(outputs[name]) for name in ("caption", "answer") if name in outputs}
    return outputs | texts
