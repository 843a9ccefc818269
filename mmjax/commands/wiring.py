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
from mmjax.train.optimizer import make_optimizer
from mmjax.train.state import State, make_state, state_shardings
from mmjax.train.step import make_predict, make_step
from mmjax.types import Batch, Evaluator, Params, Predict, UserError


@dataclass(frozen=True)
class Parts:
    """Everything that a recipe describes, compiled lazily, laid out on the mesh.

    Attributes:
        shapes: of the state, with its shardings.
        make_state: makes the state at step 0, sharded from the start.
        step: the compiled training step.
        predict: the compiled (params, placed batch) -> outputs.
        evaluators: by name.
    """

    config: Config
    placement: Placement
    shapes: State
    make_state: Callable[[], State]
    step: Callable[[State, Any], tuple[State, dict[str, jax.Array]]]
    predict: Callable[[Params, Any], dict[str, jax.Array]]
    evaluators: dict[str, Evaluator]


def check(config: Config) -> None:
    """Names that only the tables of later parts know: a recipe is checked whole before anything is opened."""
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


def _objective(config: Config) -> objective.Objective:
    return objective.build(config.objective.terms, models.inputs(config), config.objective.drop_reference)


def build(config: Config, steps: int) -> Parts:
    """The parts of a recipe that is trained for so many steps."""
    check(config)
    goal = _objective(config)
    module = models.build(config)
    placement = Placement(make_mesh(config.mesh))
    placement.check_batch("train.batch", config.train.batch // config.optimizer.accumulate)
    placement.check_batch("evaluate.batch", config.evaluate.batch)
    tx = make_optimizer(config.optimizer, steps)

    def apply(params: Params, **seen: Any) -> dict[str, jax.Array]:
        outputs: dict[str, jax.Array] = module.apply({"params": params}, **seen)  # type: ignore[assignment]
        return outputs

    make = make_state(lambda key: models.init(config, key), tx, config.seed, config.optimizer.ema > 0)
    shapes = jax.eval_shape(make)
    params = match_rules(shapes.params, models.sharding_rules(config), placement.mesh)
    shardings = state_shardings(shapes, params, placement.whole, tx)
    step = make_step(apply, goal, tx, config.optimizer.accumulate, config.optimizer.ema)
    return Parts(
        config=config,
        placement=placement,
        shapes=jax.tree.map(
            lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes, shardings
        ),
        make_state=jax.jit(make, out_shardings=shardings),
        step=jax.jit(
            step,
            in_shardings=(shardings, placement.batch),
            out_shardings=(shardings, placement.whole),
            donate_argnums=0,
        ),
        predict=jax.jit(
            make_predict(apply, goal), in_shardings=(params, placement.batch), out_shardings=placement.batch
        ),
        evaluators=evaluate.build(config),
    )


def evaluation(
    parts: Parts, params: Params, tokenizer: data.Tokenizer, source: data.Source | None = None
) -> tuple[Predict, Callable[[], Iterable[Batch]]]:
    """What evaluators are handed: `predict` with these parameters, and `batches` over the evaluation set."""
    source = source or data.open_source(parts.config.data, training=False, seed=parts.config.seed)

    def predict(batch: Batch) -> dict[str, Any]:
        return jax.device_get(parts.predict(params, parts.placement.put(batch)))

    def batches() -> Iterable[Batch]:
        count = min(source.size, parts.config.data.evaluation_examples or source.size)
        total = math.ceil(count / parts.config.evaluate.batch)
        passed = data.evaluation_batches(source, tokenizer, parts.config)
        return tqdm(passed, "evaluating", total, unit="batch", leave=False, delay=2, dynamic_ncols=True)

    return predict, batches


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
