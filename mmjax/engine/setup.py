"""Builds what evaluates a config; trainer.py adds what trains it."""

import functools
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax import data, evaluate, losses, models, registry
from mmjax.config import Config, MeshConfig, to_dict
from mmjax.config.checks import check_nested
from mmjax.data.text import JSON_FILE, file_name
from mmjax.export import frozen_text
from mmjax.files import write_file
from mmjax.losses import TrainingLoss
from mmjax.models.masked_generator import TOKENIZER
from mmjax.models.text_encoder import TEXT_ENCODER
from mmjax.nn.compute import Compute, Partitioner
from mmjax.parallel import Placement, make_mesh, match_rules, processes
from mmjax.progress import progress_bar
from mmjax.sample.text import TextDecoding, make_text_generator
from mmjax.train import lora
from mmjax.train.batch_stats import make_apply
from mmjax.train.metrics import check_wandb
from mmjax.train.step import make_predict
from mmjax.types import HOST_FIELDS, PADDING, Batch, Evaluator, Outputs, Params, Predict, UserError

logger = logging.getLogger(__name__)

Compiled = Callable[..., dict[str, jax.Array]]  # (params, batch, frozen) -> outputs


@dataclass(frozen=True)
class Experiment:
    """A model on a mesh with its losses and evaluators, compiled when first used.

    Attributes:
        compute: how the model is computed on the mesh.
        apply: the model, apply(params, **inputs).
        params: the shardings of the parameters.
        predict: (params, placed batch) -> outputs.
        evaluators: by name.
        frozen: parameters of the components and of the networks of losses, by name, on the devices.
    """

    config: Config
    placement: Placement
    compute: Compute
    apply: Callable[..., Outputs]
    loss: TrainingLoss
    params: Any
    predict: Callable[[Params, Any], dict[str, jax.Array]]
    evaluators: dict[str, Evaluator]
    frozen: Mapping[str, Any]


def check(config: Config) -> None:
    """Checks a config for training against the devices and installed extras, without opening data.

    Raises:
        UserError: for the first problem.
    """
    check_nested(config, check, given=False)
    _check_fields(config)
    placement = check_evaluation(config)
    if config.components:
        _shardings(config, placement)  # else it would fail only after the components are trained
    if config.lora.rank:
        _check_lora(config)
    for loss in losses.find(config).values():
        if loss.frozen:
            loss.frozen(config)  # so that its weights can be read is known before any stage is trained
    microbatches = config.optimizer.grad_accum_steps
    placement.check_batch(
        "train.batch / optimizer.grad_accum_steps" if microbatches > 1 else "train.batch",
        config.train.batch // microbatches,
    )
    best = config.train.best_metric.removeprefix("-")
    known = evaluate.metric_names(config)
    if best and best not in known:
        raise UserError(f"train.best_metric: no evaluator of this config gives {best}; they give {', '.join(known)}")
    in_batch = [name for name, spec in losses.find(config).items() if spec.negatives]
    if in_batch and best in ("loss", *in_batch) and processes.is_primary():
        logger.warning(
            "train.best_metric=%s depends on evaluate.batch, as losses.%s takes negatives from the batch; "
            "take a metric that does not, such as one of %s",
            config.train.best_metric,
            in_batch[0],
            ", ".join(name for name in known if name not in ("loss", *config.losses)) or "retrieval",
        )
    if config.train.wandb_project:
        check_wandb(config.train.wandb_project)


def _check_fields(config: Config) -> None:
    """Raises UserError for a text or label that the model or a loss reads and the data does not have."""
    given, kind = config.data.features, f"model.kind={config.model.kind} with the losses {', '.join(config.losses)}"
    read = {kind: tuple(models.find(config).inputs(config))}
    read |= {f"losses.{name}": spec.fields for name, spec in losses.find(config).items()}
    for reader, names in read.items():
        for field in ("question" if name == "answer" else name for name in names):
            if field in ("text", "question", "label") and field not in given:
                raise UserError(
                    f"data.source: {config.data.source} gives no {field}, which {reader} reads; it gives "
                    f"{', '.join(given)}"
                )


def _check_lora(config: Config) -> None:
    """Raises UserError for kernels that are not there, or that stay as they are."""
    kernels = lora.chosen(config.lora, jax.eval_shape(lambda: models.init(config, jax.random.key(0))))
    frozen = [name for name in kernels if any(re.fullmatch(each, name) for each in models.find(config).frozen(config))]
    if frozen:
        raise UserError(
            f"lora.kernels: {frozen[0]} is of a frozen component; set model.fine_tune=true, or name other kernels"
        )


def check_evaluation(config: Config) -> Placement:
    """Checks a config for evaluation and returns its placement; see `check`."""
    evaluate.build(config)
    fields, by = tuple(config.data.features), f"data.source={config.data.source}"
    if is_on_codes(config):
        fields = ("codes", *(name for name in fields if name in ("text", "scene")))
        by = "the visual tokens of a data set"
    evaluate.check_fields(config, fields, by)
    placement = Placement(make_mesh(config.mesh))
    resolved_compute(config, placement)
    placement.check_batch("evaluate.batch", config.evaluate.batch)
    processes.process_batch_slice(placement.batch)
    return placement


def is_on_codes(config: Config) -> bool:
    """Whether the model is trained on the codes of a visual tokenizer."""
    return TOKENIZER in models.find(config).components


def local_placement(config: Config) -> Placement:
    """Placement for what a single process computes and caches: all of its devices."""
    if not processes.is_multiprocess():
        return Placement(make_mesh(config.mesh))
    devices = jax.local_devices()
    return Placement(make_mesh(MeshConfig(), devices[: math.gcd(len(devices), config.evaluate.batch)]))


def resolved_compute(config: Config, placement: Placement) -> Compute:
    """Resolves `config.compute` for the mesh of a placement."""
    partitioner = Partitioner(placement.with_sharding_constraint, placement.shard_map)
    return models.resolve_compute(config.compute, placement.platform, partitioner)


def _shardings(config: Config, placement: Placement) -> Any:
    shapes = jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    return match_rules(shapes, models.sharding_rules(config), placement.mesh)


def build(
    config: Config,
    components: Mapping[str, Params] | None = None,
    placement: Placement | None = None,
    place: Callable[[Any, Any], Any] = processes.place,
) -> Experiment:
    """Builds the experiment of a checked config.

    Args:
        components: parameters of the components, by name.
        placement: default: the devices of this machine.
        place: puts frozen parameters on the devices.
    """
    placement = placement or Placement(make_mesh(config.mesh))
    compute = resolved_compute(config, placement)
    loss = losses.build(config, functools.partial(models.find(config).prepare, config))
    apply, params = make_apply(models.build(config, compute)), _shardings(config, placement)
    networks = {config.losses[name].kind: spec.frozen(config) for name, spec in loss.specs.items() if spec.frozen}
    frozen = {**(components or {}), **networks}
    frozen.pop(TEXT_ENCODER, None)  # its features are cached
    frozen = {name: place(tree, placement.replicated) for name, tree in frozen.items()}
    # Evaluation has no discriminator.
    measured = loss.without(losses.adversarial_terms(config))
    compiled = jax.jit(
        with_predictions(config, make_predict(apply, measured), compute),
        in_shardings=(params, placement.batch, placement.replicated),
        out_shardings=placement.replicated if processes.is_multiprocess() else placement.batch,
    )

    def predict(params: Params, batch: Any) -> dict[str, jax.Array]:
        return compiled(params, batch, frozen)

    evaluators = evaluate.build(config)
    return Experiment(config, placement, compute, apply, loss, params, predict, evaluators, frozen)


def with_predictions(config: Config, predict: Compiled, compute: Compute) -> Compiled:
    """Returns the pure function (params, batch, frozen) -> outputs that the config's evaluators read.

    Args:
        predict: returns all outputs of the module, and the losses.
    """
    spec, evaluators = models.find(config), evaluate.find(config).values()
    wanted = {name for each in evaluators for name in (*each.predictions, *each.shows)} & {*spec.predictions(config)}
    sample = decode = None
    if "image" in wanted and "image" not in spec.outputs(config):
        sample = _make_sampler(config, compute)
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


def _make_sampler(config: Config, compute: Compute) -> Callable[..., jax.Array]:
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


def encoded(batch: Batch, tokenizer: data.TextTokenizer, length: int) -> Batch:
    """Fields for the devices, with texts and questions as token ids; an empty string is all padding."""
    fields = {name: value for name, value in batch.items() if name not in HOST_FIELDS}
    for name in ("text", "question"):
        if isinstance(fields.get(name), list):
            has_text = np.array([text != "" for text in fields[name]])
            fields[name] = np.where(has_text[:, None], tokenizer.encode(fields[name], length), PADDING)
    return fields


def decoded(outputs: dict[str, Any], tokenizer: data.TextTokenizer) -> dict[str, Any]:
    """Outputs with generated token ids decoded to texts."""
    texts = {name: tokenizer.decode(outputs[name]) for name in ("caption", "answer") if name in outputs}
    return outputs | texts


def evaluation(
    experiment: Experiment, params: Params, tokenizer: data.TextTokenizer, source: data.Source
) -> tuple[Predict, Callable[[], Iterable[Batch]]]:
    """Returns `predict` with these parameters, and `batches` over the evaluation set, for the evaluators."""
    config, placement = experiment.config, experiment.placement
    placed = processes.place(params, experiment.params)  # once, not with every batch

    def predict(batch: Batch) -> dict[str, Any]:
        # Every process reads the whole evaluation batch, computes its rows, and receives the outputs of all rows.
        fields = encoded(batch, tokenizer, config.text.length)
        outputs = jax.device_get(experiment.predict(placed, processes.place(fields, placement.batch)))
        return decoded(outputs, tokenizer)

    def batches() -> Iterable[Batch]:
        total = math.ceil(data.evaluation_size(source, config) / config.evaluate.batch)
        stream = data.evaluation_batches(source, tokenizer, config)
        return progress_bar(stream, "evaluating", total, unit="batch", disable=not processes.is_primary())

    return predict, batches


def check_text_tokenizers(given: bytes | None, frozen: bytes) -> None:
    """Raises UserError if the model that training starts from has another text tokenizer than the text encoder."""
    if given not in (None, frozen):
        raise UserError(
            "train.init_from: has another text tokenizer than components.text_encoder; words would change their "
            "meaning: leave one of them out"
        )


def prepare_tokenizer(
    workdir: Path, config: Config, source: data.Source, given: bytes | None = None
) -> data.TextTokenizer:
    """Returns the workdir's text tokenizer, writing it first if needed.

    It is that of the frozen text encoder, else of the model that training starts from, else trained on the texts of the
    data. Where there are none, a model that reads none still has one, of the names of the classes.

    Args:
        given: serialized tokenizer of the model that training starts from.

    Raises:
        UserError: if two of them differ.
    """
    path = data.tokenizer_file(workdir)

    def make() -> None:
        if TEXT_ENCODER in config.components:
            plugins = registry.packages(to_dict(config))
            frozen = frozen_text.read(workdir / frozen_text.FILE, plugins).tokenizer
            check_text_tokenizers(given, frozen)
            write_file(workdir / file_name(frozen), frozen)
        elif given is not None:
            if file_name(given) == JSON_FILE:
                raise UserError(
                    "train.init_from: has the text tokenizer of a pretrained text encoder; name that encoder with "
                    "--config.components.text_encoder=DIR, too"
                )
            if path.exists() and path.read_bytes() != given:
                raise UserError(
                    f"train.init_from: has another text tokenizer than {path}, so that token ids would change their "
                    "meaning; name another --workdir"
                )
            write_file(path, given)
        elif not path.exists():
            has_texts = {"text", "question"} & source.features.keys()
            texts = source.all_captions() if has_texts else iter(source.classes or (source.name,))
            write_file(path, data.train_tokenizer(texts, config.text.vocabulary))

    processes.run_on_primary(make)
    return data.load_tokenizer(data.tokenizer_file(workdir))
