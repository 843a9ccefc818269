"""mmjax train: trains a config, resumes by itself, evaluates on the way."""

import argparse
import time
from contextlib import ExitStack, closing
from pathlib import Path

import jax
from tqdm import tqdm

from mmjax import data
from mmjax.config import Config, to_dict
from mmjax.engine import setup, stages, trainer
from mmjax.evaluate import runner
from mmjax.evaluate.report import write_report
from mmjax.export.model_folder import VISUAL_TOKENIZER
from mmjax.files import read_lines
from mmjax.parallel import processes
from mmjax.train import loop
from mmjax.train.batch_size_history import examples_seen, extend
from mmjax.train.checkpoint import Checkpoints
from mmjax.train.metrics import Metrics, NoMetrics
from mmjax.train.progress import Progress
from mmjax.train.state import State
from mmjax.train.timeline import Timeline, process_start
from mmjax.train.watchdog import watching
from mmjax.train.workdir import check_workdir, open_workdir, read_batch_size_history, workdir_lock
from mmjax.types import Samples, UserError

HELP = "train a config; started again with the same workdir it goes on where it stopped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="where checkpoints, metrics and the report go")
    parser.add_argument(
        "--stop-at", type=int, metavar="STEP", help="save and end after this step; start again to go on"
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.stop_at is not None and arguments.stop_at < 1:
        raise UserError(f"--stop-at {arguments.stop_at}: must be a step from 1 on")
    config = stages.resolve_config(arguments.config, arguments.workdir)
    return loop.exit_status(train(config, arguments.workdir, arguments.stop_at))


def train(config: Config, workdir: Path, stop_at: int | None = None) -> int:
    """Trains a config in a workdir, and before it what it is built on; returns a status; see loop.exit_status."""
    setup.check(config)
    with workdir_lock(workdir):
        return _train(config, workdir, stop_at)


def _train(config: Config, workdir: Path, stop_at: int | None) -> int:
    status, frozen = stages.tokenizer_params(config, workdir, train)
    if status:
        return status
    begin = time.time() if stages.is_two_stage(config) else process_start()  # what came before has its own timeline
    source, evaluation_source = stages.sources(config, workdir, frozen)
    processes.run_on_primary(lambda: check_workdir(workdir, config))
    known = processes.run_on_primary(lambda: read_batch_size_history(workdir))
    if not known:
        trainer.intervals(config, source.size)  # a mistake there is told before anything is made
    with ExitStack() as stack, loop.interrupted() as stop:
        kept = Checkpoints(workdir, config.train.max_to_keep, config.train.best_metric, at=config.train.checkpoints)
        checkpoints = stack.enter_context(closing(kept))
        saved = checkpoints.steps()
        history = extend(known, saved[-1] if saved else 0, config.train.batch)
        steps, evaluating, saving = trainer.intervals(config, source.size, history)
        start_from: str | Path = config.train.init_from
        if config.pretraining is not None and not saved:
            start_from = workdir / "pretraining"
            if status := train(config.pretraining, start_from):
                return status
            begin = time.time()
        timeline = stack.enter_context(closing(Timeline(begin)))
        parts = setup.build(config, frozen.get(VISUAL_TOKENIZER))
        training = trainer.build_training(parts, steps)
        state = checkpoints.restore(training.shapes) if saved else None
        if state is not None and int(state.step) < saved[-1]:  # what was newer is damaged
            history = extend(history, int(state.step), config.train.batch)
            steps, evaluating, saving = trainer.intervals(config, source.size, history)
            training = trainer.build_training(parts, steps)
        last = min(steps, stop_at or steps)
        start = int(state.step) if state is not None else 0
        was_due = start in evaluating or start == steps
        owed = start > 0 and was_due and not processes.run_on_primary(lambda: runner.is_written(workdir, start))
        if state is not None and start >= last and not owed:  # and whole: a damaged one would have been passed over
            processes.log_primary(f"{config.name}: step {start:,} of {last:,} is done already{_reported(workdir)}")
            return 0
        processes.run_on_primary(lambda: open_workdir(workdir, config, history))
        tokenizer = setup.prepare_tokenizer(workdir, config, source)
        if state is None:
            state = trainer.first_state(start_from, parts, training)
        _introduce(config, state, source, steps, start)
        timeline.resume(read_lines(workdir / "metrics.jsonl"), start)
        writer = stack.enter_context(closing(_metrics(workdir, start, config)))
        writer.write_time(start, timeline.metrics())
        progress = Progress(config.train, writer, start, last, steps, source.input_stats, timeline)
        stack.enter_context(closing(progress))
        stack.enter_context(watching(timeline))
        latest: dict[int, dict[str, float]] = {}  # the metrics of the newest evaluation, by its step

        def after(state: State, done: int) -> None:
            evaluates, saves = (done in due or done == steps for due in (evaluating, saving))
            if not (evaluates or saves):
                return
            jax.block_until_ready(state.step)
            with progress.paused():
                latest.clear()
                if evaluates:
                    with timeline.during("evaluation"):
                        predict, batches = setup.evaluation(parts, state.eval_params(), tokenizer, evaluation_source)
                        try:
                            metrics, samples = runner.run(parts.evaluators, stop.before(predict, done), batches)
                        except loop.Stopped:
                            return  # to save the state in time; it is evaluated when the training goes on
                        if processes.is_primary():
                            report_evaluation(workdir, done, metrics, samples, writer)
                    latest[done] = metrics
                with timeline.during("checkpoint"):
                    if saves or processes.run_on_primary(lambda: checkpoints.improves(latest.get(done, {}))):
                        checkpoints.save(state, latest.get(done, {}))
                writer.write_time(done, timeline.metrics())

        part = processes.process_batch_slice(parts.placement.batch)
        stream = data.training_batches(source, tokenizer, config, start, *part, examples_seen(history, start))
        with setup.closing(stream) as batches:
            put = parts.placement.shard_batch
            if owed:  # it was told to stop while it evaluated
                after(state, start)
            state = loop.train(state, training.step, batches, put, last, after, progress.log, stop, timeline)
        done = int(state.step)
        with timeline.during("checkpoint"):
            checkpoints.save(state, latest.get(done, {}))
            checkpoints.wait()
        writer.write_time(done, timeline.metrics(stopped=True))
    ended = (
        "all steps done" if done == steps and not stop.reached else f"stopped after step {done:,}; start again to go on"
    )
    processes.log_primary(f"{config.name}: {ended}{_reported(workdir)}")
    return stop.status


def _reported(workdir: Path) -> str:
    """Writes the report, in the first process, and says where."""
    return f"; report: {write_report(workdir)}" if processes.is_primary() else ""


def _metrics(workdir: Path, start: int, config: Config) -> Metrics:
    if not processes.is_primary():
        return NoMetrics()
    return Metrics(workdir, start, config.train.wandb_project, to_dict(config))


def _introduce(config: Config, state: State, source: data.Source, steps: int, start: int) -> None:
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    of = f" of {jax.process_count()} processes" if processes.is_multiprocess() else ""
    processes.log_primary(
        f"{config.name}: {count:,} parameters on {len(jax.devices())} {jax.devices()[0].platform} devices{of}, "
        f"{source.size:,} examples, {steps:,} steps" + (f", going on from step {start:,}" if start else "")
    )
    if "perceptual" in config.adversarial_terms:
        processes.log_primary(
            "objective.terms.perceptual: no perceptual.weights, so it is feature matching on the discriminator"
        )


def report_evaluation(
    workdir: Path, step: int, metrics: dict[str, float], samples: dict[str, Samples], writer: Metrics
) -> None:
    """Writes the metrics and samples of an evaluation wherever they belong."""
    runner.write(workdir, step, metrics, samples)
    writer.write(step, "evaluation", metrics)
    for name, sample in samples.items():
        writer.write_image(step, name, runner.grid(list(sample.rows.values())))
    shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
    tqdm.write(f"step {step:,}: {shown}")
