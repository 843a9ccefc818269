"""What the commands share: from a config to the parts that evaluate it; trainer.py adds what trains them."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from mmjax import data, evaluate, losses, models
from mmjax.config import Config, MaskedGeneratorConfig, MeshConfig
from mmjax.engine.eval_outputs import decoded, encoded, seen_by_evaluators
from mmjax.export import frozen_text
from mmjax.export.model_folder import REFERENCE, VISUAL_TOKENIZER
from mmjax.files import write_file
from mmjax.losses import adversarial
from mmjax.losses.perceptual import perceptual
from mmjax.models import lpips
from mmjax.nn.partitioner import Partitioner
from mmjax.parallel import Placement, make_mesh, match_rules, processes
from mmjax.train.metrics import check_wandb
from mmjax.train.statistics import make_apply
from mmjax.train.step import make_predict
from mmjax.types import Batch, Evaluator, Outputs, Params, Predict, UserError

_OF_OBJECTIVE = (
    "reference_dropout",
    "text_dropout",
    "mask_schedule",
    "label_smoothing",
    "unmasked_weight",
    "mlm_mask_ratio",
    "mim_mask_ratio",
    "code_noise_prob",
)


@dataclass(frozen=True)
class Parts:
    """What evaluating needs, laid out on the mesh and compiled when first used.

    Attributes:
        apply: the model, apply(params, **inputs).
        params: the shardings of the parameters.
        predict: (params, placed batch) -> outputs.
        evaluators: by name.
        frozen: what the objective needs that is not trained, by name, on the devices.
    """

    config: Config
    placement: Placement
    apply: Callable[..., Outputs]
    objective: losses.Objective
    params: Any
    predict: Callable[[Params, Any], dict[str, jax.Array]]
    evaluators: dict[str, Evaluator]
    frozen: Mapping[str, Any]


def check(config: Config) -> None:
    """What only later parts know, of a config that is to be trained: names, devices, extras. Opens nothing.

    Raises:
        UserError: for the first thing that does not fit.
    """
    for part in (VISUAL_TOKENIZER, REFERENCE, "pretraining"):
        theirs = getattr(config, part)
        if theirs is None or (part != "pretraining" and getattr(config.tokens, part)):
            continue
        try:
            check(theirs)
        except UserError as error:
            raise UserError(f"{part}.{error}") from None
    placement = check_evaluation(config)
    if config.tokenizer is not None:
        _shardings(config, placement)  # which would be found out only after the first stage
    parts = config.optimizer.grad_accum_steps
    placement.check_batch(
        "train.batch / optimizer.grad_accum_steps" if parts > 1 else "train.batch", config.train.batch // parts
    )
    best = config.train.best_metric.removeprefix("-")
    known = evaluate.metric_names(config)
    if best and best not in known:
        raise UserError(f"train.best_metric: no evaluator of this config gives {best}; they give {', '.join(known)}")
    if config.train.wandb_project:
        check_wandb(config.train.wandb_project)


def check_evaluation(config: Config) -> Placement:
    """The same for a config that is only to be evaluated; returns where batches go."""
    _objective(config)
    evaluate.build(config)
    provided, by = tuple(config.data.features), f"data.source={config.data.source}"
    if isinstance(config.model, MaskedGeneratorConfig):
        provided, by = (
            ("codes", *(name for name in provided if name in ("text", "scene"))),
            "the visual tokens of a data set",
        )
    for name in config.evaluate.evaluators:
        for needed in evaluate.NEEDS.get(name, ()):
            if needed not in provided:
                raise UserError(
                    f"evaluate.evaluators: {name} needs {needed!r}, which {by} does not provide (it provides "
                    f"{', '.join(provided)})"
                )
    check_attention(config, jax.default_backend())
    placement = Placement(make_mesh(config.mesh))
    placement.check_batch("evaluate.batch", config.evaluate.batch)
    processes.process_batch_slice(placement.batch)
    return placement


def local_placement(config: Config) -> Placement:
    """Where what is computed once is computed: over all devices, but of several processes over those of this one."""
    if not processes.is_multiprocess():
        return Placement(make_mesh(config.mesh))
    devices = jax.local_devices()
    return Placement(make_mesh(MeshConfig(), devices[: math.gcd(len(devices), config.evaluate.batch)]))


def check_attention(config: Config, platform: str) -> None:
    """Raises UserError where the attention kernel is none of the platform's: "cpu", "gpu" or "tpu"."""
    kernel = getattr(config.model, "attention", "xla")
    needs, device = {"cudnn": ("gpu", "an NVIDIA GPU"), "splash": ("tpu", "a TPU")}.get(kernel, (platform, ""))
    if needs != platform:
        raise UserError(
            f"model.attention: {kernel} needs {device}, and there is none; set --config.model.attention=xla"
        )


def _shardings(config: Config, placement: Placement) -> Any:
    shapes = jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    return match_rules(shapes, models.sharding_rules(config), placement.mesh)


def _objective(config: Config) -> losses.Objective:
    return losses.build(
        config.objective.terms,
        models.inputs(config),
        **{name: getattr(config.objective, name) for name in _OF_OBJECTIVE},
        given=_given_terms(config),
    )


def _given_terms(config: Config) -> dict[str, losses.Term]:
    """The terms that need a discriminator, or the weights of a network."""
    matched = adversarial.matched_features
    return {
        "adversarial": adversarial.adversarial(config.discriminator.loss),
        "feature_matching": matched,
        "perceptual": perceptual(lpips.distance) if config.perceptual.weights else matched,
    }


def build(
    config: Config,
    tokenizer: Params | None = None,
    placement: Placement | None = None,
    place: Callable[[Any, Any], Any] = processes.place,
) -> Parts:
    """The parts of a config that was checked.

    Args:
        tokenizer: the parameters of the visual tokenizer that a masked generator draws with.
        placement: on other devices than those of this machine.
        place: puts what the objective needs that is not trained on the devices.
    """
    placement = placement or Placement(make_mesh(config.mesh))
    partitioner = Partitioner(placement.with_sharding_constraint, placement.shard_map)
    goal, apply = _objective(config), make_apply(models.build(config, partitioner))
    params = _shardings(config, placement)
    frozen = {name: place(params, placement.replicated) for name, params in _frozen(config).items()}
    if tokenizer:
        frozen["tokenizer"] = place(tokenizer, placement.replicated)
    # There is no discriminator beside a model that is evaluated.
    alone = {name: weight for name, weight in goal.weights.items() if name not in config.adversarial_terms}
    predict = jax.jit(
        seen_by_evaluators(config, make_predict(apply, dataclasses.replace(goal, weights=alone)), partitioner),
        in_shardings=(params, placement.batch, placement.replicated),
        out_shardings=placement.replicated if processes.is_multiprocess() else placement.batch,
    )
    return Parts(
        config,
        placement,
        apply,
        goal,
        params,
        lambda params, batch: predict(params, batch, frozen),
        evaluate.build(config),
        frozen,
    )


def _frozen(config: Config) -> dict[str, Any]:
    """What the objective needs that is not trained, by name."""
    if "perceptual" not in config.objective.terms or not config.perceptual.weights:
        return {}
    return {"perceptual": lpips.read(config.perceptual, config.data.size)}


def evaluation(
    parts: Parts, params: Params, tokenizer: data.Tokenizer, source: data.Source
) -> tuple[Predict, Callable[[], Iterable[Batch]]]:
    """What evaluators are handed: `predict` with these parameters, and `batches` over the evaluation set."""
    placed = processes.place(params, parts.params)  # once, not with every batch

    def predict(batch: Batch) -> dict[str, Any]:
        # Every process reads all of an evaluation batch, computes its rows, and is handed those of all.
        fields = encoded(batch, tokenizer, parts.config.text.length)
        outputs = jax.device_get(parts.predict(placed, processes.place(fields, parts.placement.batch)))
        return decoded(outputs, tokenizer)

    def batches() -> Iterable[Batch]:
        total = math.ceil(data.evaluation_size(source, parts.config) / parts.config.evaluate.batch)
        passed = data.evaluation_batches(source, tokenizer, parts.config)
        shown: dict[str, Any] = {"unit": "batch", "leave": False, "delay": 2, "dynamic_ncols": True}
        return tqdm(passed, "evaluating", total, disable=not processes.is_primary(), **shown)

    return predict, batches


def prepare_tokenizer(workdir: Path, config: Config, source: data.Source) -> data.Tokenizer:
    """The workdir's tokenizer: that of the frozen text encoder, or else trained on the config's captions."""
    path = workdir / "tokenizer.model"

    def make() -> None:
        if config.text_encoder is not None:
            write_file(path, frozen_text.read(workdir / frozen_text.FILE).tokenizer)
        elif not path.exists():
            write_file(path, data.train_tokenizer(source.all_captions(), config.text.vocabulary))

    processes.run_on_primary(make)
    return data.load_tokenizer(path)


@contextmanager
def closing(batches: Iterator[Batch]) -> Iterator[Iterator[Batch]]:
    """Ends the threads of a pipeline with the block."""
    try:
        yield batches
    finally:
        batches.close()  # type: ignore[attr-defined]
