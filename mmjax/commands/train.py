"""mmjax train: trains a recipe, resumes by itself, evaluates on the way."""

import argparse
from pathlib import Path

import jax
from tqdm import tqdm

from mmjax import data
from mmjax.commands import wiring
from mmjax.config import Config, to_dict
from mmjax.evaluate import runner
from mmjax.evaluate.report import write_report
from mmjax.train import loop
from mmjax.train.checkpoint import Checkpoints
from mmjax.train.metrics import Metrics
from mmjax.train.progress import Progress
from mmjax.train.state import State
from mmjax.train.workdir import open_workdir

HELP = "train a recipe; started again with the same workdir it goes on where it stopped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="where checkpoints, metrics and the report go")
    parser.add_argument(
        "--stop-at", type=int, default=0, metavar="STEP", help="save and end after this step; start again to go on"
    )


def run(arguments: argparse.Namespace) -> int:
    config: Config = arguments.recipe
    workdir: Path = arguments.workdir
    wiring.check(config)
    source = data.open_source(config.data, training=True, seed=config.seed)
    steps, evaluate_every, checkpoint_every = intervals(config, source.size)
    parts = wiring.build(config, steps)
    open_workdir(workdir, config)
    tokenizer = wiring.prepare_tokenizer(workdir, config, source)
    checkpoints = Checkpoints(workdir, config.train.keep, config.train.best)
    last = min(steps, arguments.stop_at or steps)
    if (saved := checkpoints.steps()) and saved[-1] >= last:
        checkpoints.close()
        print(f"{config.name}: step {last:,} of {steps:,} is done already; report: {write_report(workdir)}")
        return 0
    state = checkpoints.restore(parts.shapes) if saved else parts.make_state()
    start = int(state.step)
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    print(
        f"{config.name}: {count:,} parameters on {len(jax.devices())} {jax.devices()[0].platform} devices, "
        f"{source.size:,} examples, {steps:,} steps" + (f", going on from step {start:,}" if start else "")
    )
    metrics = Metrics(workdir, start, config.train.wandb_project, to_dict(config))
    evaluation_source = data.open_source(config.data, training=False, seed=config.seed)

    def after(state: State, done: int) -> None:
        evaluates, saves = (done % every == 0 or done == steps for every in (evaluate_every, checkpoint_every))
        if not (evaluates or saves):
            return
        jax.block_until_ready(state.step)
        with progress.paused():
            figures: dict[str, float] = {}
            if evaluates:
                predict, batches = wiring.evaluation(parts, state.averaged(), tokenizer, evaluation_source)
                figures = report_evaluation(workdir, done, *runner.run(parts.evaluators, predict, batches), metrics)
            if saves:
                checkpoints.save(state, figures)

    batches = data.training_batches(source, tokenizer, config, start)
    progress = Progress(config.train, metrics, start, last)
    try:
        with loop.interrupted() as stop, wiring.closing(batches):
            state = loop.train(state, parts.step, batches, parts.placement.put, last, after, progress.log, stop)
            done, stopped = int(state.step), stop()
        checkpoints.save(state, {})
        checkpoints.wait()
    finally:
        progress.close()
        metrics.close()
        checkpoints.close()
    report = write_report(workdir)
    ended = "all steps done" if done == steps else f"stopped after step {done:,}; start again to go on"
    print(f"{config.name}: {ended}; report: {report}")
    return 130 if stopped else 0


def intervals(config: Config, examples: int) -> tuple[int, int, int]:
    """Steps of the whole training, between evaluations, and between checkpoints."""
    train = config.train
    epoch = max(examples // train.batch, 1)
    steps = train.steps or train.epochs * epoch
    return steps, train.evaluate_every or epoch, train.checkpoint_every or epoch


def report_evaluation(workdir: Path, step: int, figures: dict, samples: dict, metrics: Metrics) -> dict[str, float]:
    """Writes the figures and samples of an evaluation wherever they belong, and returns the figures."""
    runner.write(workdir, step, figures, samples)
    metrics.write(step, "evaluation", figures)
    for name, sample in samples.items():
        metrics.write_picture(step, name, runner.grid(list(sample.rows.values())))
    shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
    tqdm.write(f"step {step:,}: {shown}")
    return figures
