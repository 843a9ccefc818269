"""Trains a config in a workdir: its components first, then from the newest checkpoint."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from mmjax import data, models
from mmjax.config import Config, to_dict
from mmjax.engine import components, memory, preflight, setup, trainer, vision_encoder
from mmjax.engine.setup import Experiment
from mmjax.engine.trainer import Schedule, Training
from mmjax.evaluate import runner
from mmjax.evaluate.report import write_report
from mmjax.export import lora as lora_files
from mmjax.export.load import load_params, read_text_tokenizer
from mmjax.files import read_lines
from mmjax.parallel import Placement, make_mesh, processes
from mmjax.progress import write
from mmjax.train import loop
from mmjax.train.batch_size_history import BatchSizeHistory, examples_seen, extend
from mmjax.train.checkpoint import Checkpoints
from mmjax.train.identity import identity
from mmjax.train.lora import BASE
from mmjax.train.metrics import Metrics
from mmjax.train.progress import Progress
from mmjax.train.state import State
from mmjax.train.timeline import Timeline, process_start, watching
from mmjax.train.workdir import check_data, open_workdir, read_batch_size_history, workdir_lock
from mmjax.types import Params


@dataclass
class Run:
    """A training that starts at step 0 or resumes.

    Attributes:
        state: the restored state; None at step 0.
        history: batch sizes so far; see mmjax.train.batch_size_history.
        last: the step after which this run ends.
    """

    config: Config
    workdir: Path
    source: data.Source
    evaluation_source: data.Source
    checkpoints: Checkpoints
    experiment: Experiment
    training: Training
    schedule: Schedule
    history: BatchSizeHistory
    state: State | None
    last: int
    latest: dict[int, dict[str, float]] = field(default_factory=dict)  # metrics of the newest evaluation by step

    @property
    def start(self) -> int:
        return int(self.state.step) if self.state is not None else 0

    @property
    def owes_evaluation(self) -> bool:
        """Whether the evaluation due at the restored step was not finished."""
        due = self.start > 0 and self.schedule.due(self.start)[0]
        return due and not processes.run_on_primary(lambda: runner.is_written(self.workdir, self.start))


def train(config: Config, workdir: Path, stop_at: int | None = None) -> int:
    """Trains a config in a workdir, after its components and pretraining; returns a status, see loop.exit_status."""
    setup.check(config)
    _check_memory(config)
    with workdir_lock(workdir):
        processes.run_on_primary(lambda: preflight.check(config, workdir))
        status, frozen = components.prepare(config, workdir, train)
        if status:
            return status
        begin = time.time() if config.components else process_start()  # the components have their own timelines
        sources = components.sources(config, workdir, frozen)
        options = config.train
        opened = Checkpoints(workdir, options.max_to_keep, options.best_metric, at=options.checkpoints)
        with closing(opened) as checkpoints, loop.interrupted() as stop:
            known = processes.run_on_primary(lambda: read_batch_size_history(workdir))
            if checkpoints.steps():
                processes.run_on_primary(lambda: check_data(workdir, _examples(sources[0])))
            if not known:  # an invalid schedule is reported before anything is built
                trainer.schedule(config, sources[0].size)
            if config.pretraining is not None and not checkpoints.steps():
                if status := train(config.pretraining, workdir / "pretraining"):
                    return status
                begin = time.time()
            with closing(Timeline(begin)) as timeline:
                run = _restored(config, workdir, sources, frozen, checkpoints, known, stop_at)
                is_done = run.start >= run.last and run.state is not None and not run.owes_evaluation
                with memory.explained(lambda: memory.smaller_step(config, run.experiment.placement)):
                    done = run.start if is_done else _train(run, timeline, stop)
    if is_done:
        ended = f"step {done:,} of {run.last:,} is done already"
    elif done == run.schedule.steps and not stop.reached:
        ended = "all steps done"
    else:
        ended = f"stopped after step {done:,}; start again to resume"
    report = f"; report: {write_report(workdir)}" if processes.is_primary() else ""
    processes.log_primary(f"{config.name}: {ended}{report}")
    return 0 if is_done else stop.status


def _check_memory(config: Config) -> None:
    memory.check_batches(config)
    if config.components:  # before they are trained; the others are about to be built
        placement = Placement(make_mesh(config.mesh))
        state = trainer.state_shapes(config, placement, 1)
        memory.check_state(state, placement, trainer.base_shapes(config, placement))


def _examples(source: data.Source) -> dict[str, Any]:
    """The training examples as config.json tells them: those of the data set, wherever it lies."""
    return {"examples": source.size, "sha256": source.digest}


def _restored(
    config: Config,
    workdir: Path,
    sources: Sequence[data.Source],
    frozen: dict[str, Params],
    checkpoints: Checkpoints,
    known: BatchSizeHistory,
    stop_at: int | None,
) -> Run:
    """The training restored from the newest checkpoint."""
    saved, (source, held_out) = checkpoints.steps(), sources
    history = extend(known, saved[-1] if saved else 0, config.train.batch)
    schedule = trainer.schedule(config, source.size, history)
    experiment = setup.build(config, frozen)
    base = _base(config, workdir, bool(saved)) if config.lora.rank else None
    training = trainer.build(experiment, schedule.steps, base)
    memory.check_state(training.shapes, experiment.placement, training.frozen.get(BASE))
    if saved:
        tokenizer = setup.prepare_tokenizer(workdir, config, source)
        checkpoints.run = identity(config, _examples(source), tokenizer.proto)
    state = checkpoints.restore(training.shapes) if saved else None
    if state is not None and int(state.step) < saved[-1]:  # what was newer is damaged
        history = extend(history, int(state.step), config.train.batch)
        schedule = trainer.schedule(config, source.size, history)
        training = trainer.build(experiment, schedule.steps, base)
    last = min(schedule.steps, stop_at or schedule.steps)
    return Run(config, workdir, source, held_out, checkpoints, experiment, training, schedule, history, state, last)


def _train(run: Run, timeline: Timeline, stop: loop.Stop) -> int:
    """Trains until the last step or a signal to stop; returns the step reached."""
    config, workdir, start = run.config, run.workdir, run.start
    processes.run_on_primary(lambda: open_workdir(workdir, config, run.history, _examples(run.source)))
    owed, state, tokenizer = run.owes_evaluation, *_first_state(run)
    run.checkpoints.run = identity(config, _examples(run.source), tokenizer.proto)
    _introduce(run, state)
    with ExitStack() as stack:
        timeline.resume(read_lines(workdir / "metrics.jsonl"), start)
        project, primary = config.train.wandb_project, processes.is_primary()
        writer = stack.enter_context(closing(Metrics(workdir, start, project, to_dict(config), writes=primary)))
        writer.write_time(start, timeline.metrics())
        steps = (start, run.last, run.schedule.steps)
        progress = Progress(config.train, writer, *steps, run.source.input_stats, timeline)
        stack.enter_context(closing(progress))
        stack.enter_context(watching(timeline))
        after = _after_step(run, tokenizer, writer, progress, timeline, stop)
        placement, seen = run.experiment.placement, examples_seen(run.history, start)
        process_slice = processes.process_batch_slice(placement.batch)
        stream: Any = data.training_batches(run.source, tokenizer, config, start, *process_slice, seen)
        with closing(stream) as batches:
            if owed:
                after(state, start)
            step, put = run.training.step, placement.shard_batch
            state = loop.train(state, step, batches, put, run.last, after, progress.log, stop, timeline)
        done = int(state.step)
        with timeline.during("checkpoint"):
            run.checkpoints.save(state, run.latest.get(done, {}))
            run.checkpoints.wait()
        writer.write_time(done, timeline.metrics(stopped=True))
    return done


def _first_state(run: Run) -> tuple[State, data.TextTokenizer]:
    """The restored or initial state, and the text tokenizer."""
    config, workdir = run.config, run.workdir
    if run.state is not None:
        return run.state, setup.prepare_tokenizer(workdir, config, run.source)
    start_from = starts_from(config, workdir)
    params = load_params(start_from) if start_from and not config.lora.rank else None
    text_tokenizer = read_text_tokenizer(start_from) if start_from else None
    tokenizer = setup.prepare_tokenizer(workdir, config, run.source, text_tokenizer)
    # A LoRA starts from a whole model, which has its image encoder.
    encoder = {} if config.lora.rank else vision_encoder.load_params(config, run.experiment.params)
    return trainer.first_state(params, run.experiment, run.training, encoder), tokenizer


def _base(config: Config, workdir: Path, resumes: bool) -> Params:
    """The model that a LoRA adds to: the copy in the workdir, which is made where the training begins."""
    shapes = jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    if not resumes:
        matched = trainer.match_params(config, load_params(starts_from(config, workdir)), shapes)
        processes.run_on_primary(lambda: lora_files.write_base(workdir, matched))
    return lora_files.read_base(workdir, shapes)


def starts_from(config: Config, workdir: Path) -> str:
    """The workdir or model folder that training starts from; "" for none."""
    return config.train.init_from if config.pretraining is None else str(workdir / "pretraining")


def _after_step(
    run: Run, tokenizer: data.TextTokenizer, writer: Metrics, progress: Progress, timeline: Timeline, stop: loop.Stop
) -> Callable[[State, int], None]:
    """Returns the callback that evaluates and saves a state when due."""
    latest, checkpoints = run.latest, run.checkpoints

    def evaluate(state: State, done: int) -> bool:
        experiment = run.experiment
        with timeline.during("evaluation"):
            predict, batches = setup.evaluation(
                experiment, run.training.full(state.eval_params()), tokenizer, run.evaluation_source
            )
            try:
                with memory.explained(lambda: memory.smaller_evaluation(run.config, experiment.placement)):
                    latest[done], samples = runner.run(experiment.evaluators, stop.before(predict, done), batches)
            except loop.Stopped:
                return False  # leaves time to save the state; resuming evaluates it
            if processes.is_primary():
                runner.write(run.workdir, done, latest[done], samples)
                writer.write(done, "evaluation", latest[done])
                for name, sample in samples.items():
                    writer.write_image(done, name, runner.grid(list(sample.rows.values())))
                write(f"step {done:,}: " + ", ".join(f"{name} {value:.4g}" for name, value in latest[done].items()))
        return True

    def after(state: State, done: int) -> None:
        evaluates, saves = run.schedule.due(done)
        if not (evaluates or saves):
            return
        jax.block_until_ready(state.step)
        with progress.paused():
            latest.clear()
            if evaluates and not evaluate(state, done):
                return
            with timeline.during("checkpoint"):
                if saves or processes.run_on_primary(lambda: checkpoints.improves(latest.get(done, {}))):
                    checkpoints.save(state, latest.get(done, {}))
            writer.write_time(done, timeline.metrics())

    return after


def _introduce(run: Run, state: State) -> None:
    count: Any = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    kind = f"parameters of a LoRA of rank {run.config.lora.rank}" if run.config.lora.rank else "parameters"
    of = f" of {jax.process_count()} processes" if processes.is_multiprocess() else ""
    processes.log_primary(
        f"{run.config.name}: {count:,} {kind} on {len(jax.devices())} {jax.devices()[0].platform} devices{of}, "
        f"{run.source.size:,} examples, {run.schedule.steps:,} steps"
        + (f", resuming from step {run.start:,}" if run.start else "")
    )
