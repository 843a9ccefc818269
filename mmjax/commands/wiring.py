"""What the commands share: from a recipe to the parts that train and evaluate it."""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from mmjax import data, evaluate, models, objective
from mmjax.config import Config
from mmjax.files import write_file
from mmjax.parallel import Placement, make_mesh, match_rules
from mmjax.train.metrics import check_wandb
from mmjax.train.optimizer import make_optimizer
from mmjax.train.state import State, make_state, state_shardings
from mmjax.train.step import make_predict, make_step
from mmjax.types import Batch, Evaluator, Outputs, Params, Predict, UserError


@dataclass(frozen=True)
class Parts:
    """What evaluating needs, laid out on the mesh and compiled when first used.

    Attributes:
        apply: the model, apply(params, **inputs).
        params: the shardings of the parameters.
        predict: (params, placed batch) -> outputs.
        evaluators: by name.
    """

    config: Config
    placement: Placement
    apply: Callable[..., Outputs]
    objective: objective.Objective
    params: Any
    predict: Callable[[Params, Any], dict[str, jax.Array]]
    evaluators: dict[str, Evaluator]


@dataclass(frozen=True)
class Training:
    """What training needs beside.

    Attributes:
        shapes: of the state, with its shardings.
        make_state: makes the state at step 0, sharded from the start.
        step: (state, placed batch) -> (state, metrics); it takes the state's memory over.
    """

    shapes: State
    make_state: Callable[[], State]
    step: Callable[[State, Any], tuple[State, dict[str, jax.Array]]]


def check(config: Config) -> None:
    """What only later parts know, of a recipe that is to be trained: names, devices, extras. Opens nothing.

    Raises:
        UserError: for the first thing that does not fit.
    """
    placement = check_evaluation(config)
    parts = config.optimizer.accumulate
    placement.check_batch(
        "train.batch / optimizer.accumulate" if parts > 1 else "train.batch", config.train.batch // parts
    )
    best = config.train.best.removeprefix("-")
    known = evaluate.figure_names(config)
    if best and best not in known:
        raise UserError(f"train.best: no evaluator of this recipe gives {best}; they give {', '.join(known)}")
    if config.train.wandb_project:
        check_wandb(config.train.wandb_project)


def check_evaluation(config: Config) -> Placement:
    """The same for a recipe that is only to be evaluated; returns where batches go."""
    if jax.process_count() > 1:
        raise UserError(f"{jax.process_count()} processes: mmjax runs in one process with all its devices, as yet")
    _objective(config)
    evaluate.build(config)
    provided = data.PROVIDES[config.data.source]
    for name in config.evaluate.evaluators:
        for needed in evaluate.NEEDS.get(name, ()):
            if needed not in provided:
                raise UserError(
                    f"evaluate.evaluators: {name} needs {needed!r}, which data.source={config.data.source} does not "
                    f"provide (it provides {', '.join(provided)})"
                )
    if getattr(config.model, "attention", "xla") == "cudnn" and jax.default_backend() != "gpu":
        raise UserError(
            "model.attention: cudnn needs an NVIDIA GPU, and there is none; set --config.model.attention=xla"
        )
    placement = Placement(make_mesh(config.mesh))
    placement.check_batch("evaluate.batch", config.evaluate.batch)
    return placement


def _objective(config: Config) -> objective.Objective:
    return objective.build(config.objective.terms, models.inputs(config), config.objective.drop_reference)


def build(config: Config) -> Parts:
    """The parts of a recipe that was checked."""
    goal, module = _objective(config), models.build(config)
    placement = Placement(make_mesh(config.mesh))

    def apply(params: Params, **seen: Any) -> Outputs:
        outputs: Outputs = module.apply({"params": params}, **seen)  # type: ignore[assignment]
        return outputs

    shapes = jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    params = match_rules(shapes, models.sharding_rules(config), placement.mesh)
    predict = jax.jit(make_predict(apply, goal), in_shardings=(params, placement.batch), out_shardings=placement.batch)
    return Parts(config, placement, apply, goal, params, predict, evaluate.build(config))


def build_training(parts: Parts, steps: int) -> Training:
    """What trains the parts for so many steps."""
    config, placement = parts.config, parts.placement
    tx = make_optimizer(config.optimizer, steps)
    make = make_state(lambda key: models.init(config, key), tx, config.seed, config.optimizer.ema > 0)
    shapes = jax.eval_shape(make)
    shardings = state_shardings(shapes, parts.params, placement.whole, tx)
    step = make_step(parts.apply, parts.objective, tx, config.optimizer.accumulate, config.optimizer.ema)
    return Training(
        shapes=jax.tree.map(lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, shardings),
        make_state=jax.jit(make, out_shardings=shardings),
        step=jax.jit(
            step,
            in_shardings=(shardings, placement.batch),
            out_shardings=(shardings, placement.whole),
            donate_argnums=0,
        ),
    )


def evaluation(
    parts: Parts, params: Params, tokenizer: data.Tokenizer, source: data.Source
) -> tuple[Predict, Callable[[], Iterable[Batch]]]:
    """What evaluators are handed: `predict` with these parameters, and `batches` over the evaluation set."""
    placed = jax.device_put(params, parts.params)  # once, not with every batch

    def predict(batch: Batch) -> dict[str, Any]:
        return jax.device_get(parts.predict(placed, parts.placement.put(batch)))

    def batches() -> Iterable[Batch]:
        total = math.ceil(data.evaluation_size(source, parts.config) / parts.config.evaluate.batch)
        passed = data.evaluation_batches(source, tokenizer, parts.config)
        return tqdm(passed, "evaluating", total, unit="batch", leave=False, delay=2, dynamic_ncols=True)

    return predict, batches


def intervals(config: Config, examples: int) -> tuple[int, int, int]:
    """Steps of the whole training, between evaluations, and between checkpoints.

    Raises:
        UserError: where the whole training is shorter than the optimizer's warm-up.
    """
    train = config.train
    epoch = max(round(examples / train.batch), 1)
    steps = train.steps or math.ceil(train.epochs * examples / train.batch)
    warmup = config.optimizer.warmup_steps
    if warmup >= steps:
        raise UserError(f"optimizer.warmup_steps: {warmup} leaves nothing of the {steps} steps of this training")
    return steps, train.evaluate_every or epoch, train.checkpoint_every or epoch


def prepare_tokenizer(workdir: Path, config: Config, source: data.Source) -> data.Tokenizer:
    """The workdir's tokenizer; trained on the recipe's captions where it is missing."""
    path = workdir / "tokenizer.model"
    if not path.exists():
        write_file(path, data.train_tokenizer(source.all_captions(), config.text.vocabulary))
    return data.load_tokenizer(path)


@contextmanager
def closing(batches: Iterator[Batch]) -> Iterator[Iterator[Batch]]:
    """Ends the threads of a pipeline with the block."""
    try:
        yield batches
    finally:
        batches.close()  # type: ignore[attr-defined]
