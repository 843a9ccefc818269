"""mmjax evaluate: the config's evaluators on a checkpoint."""

import argparse
import time
from contextlib import closing
from pathlib import Path

from mmjax import data
from mmjax.config import Config
from mmjax.engine import components, memory, preflight, setup, trainer
from mmjax.evaluate import runner
from mmjax.evaluate.report import write_report
from mmjax.export.load import restored
from mmjax.parallel import processes
from mmjax.terminal import printable
from mmjax.train.checkpoint import Checkpoints, step_argument
from mmjax.train.checkpoint import folder as checkpoint_folder
from mmjax.train.workdir import check_overrides, read_batch_size_history, read_config
from mmjax.types import Params, UserError

WATCH_SECONDS = 10
HELP = (
    "Run the config's evaluators on a checkpoint of a workdir, on the devices of this machine. --config.FIELD=VALUE "
    "overrides fields of data location, mesh and evaluation."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="workdir of the training")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--step", type=step_argument, help='step of the checkpoint, or "best" (default: the newest)')
    which.add_argument("--watch", action="store_true", help="evaluate each new checkpoint until the training ends")


def run(arguments: argparse.Namespace) -> int:
    workdir: Path = arguments.workdir
    check_overrides(arguments.overrides)
    # The devices may differ from those of the training: by default all are on the data axis.
    mesh = {"mesh.data": "-1", "mesh.fsdp": "1", "mesh.model": "1"}
    config = read_config(workdir, mesh | arguments.overrides, arguments.plugins)
    setup.check_evaluation(config)
    memory.check_batches(config)
    processes.run_on_primary(lambda: preflight.check_results(workdir))
    frozen = components.trained(config, workdir)
    source = components.sources(config, workdir, frozen, ["evaluation"])[0]
    experiment = setup.build(config, frozen)
    if not arguments.watch:
        step, params = restored(workdir, read_config(workdir, plugins=arguments.plugins), arguments.step)
        _evaluate(workdir, experiment, source, step, params)
        return 0
    examples = data.open_source(config.data, training=True, seed=config.seed).size
    evaluated: set[int] = set()
    while max(evaluated, default=0) < _last(workdir, examples, arguments.plugins):
        waiting = [step for step in _steps(workdir, config) if step not in evaluated]
        if not waiting:
            time.sleep(WATCH_SECONDS)
            continue
        evaluated.add(waiting[0])  # one at a time, since checkpoints come and go meanwhile
        try:
            step, params = restored(workdir, read_config(workdir, plugins=arguments.plugins), waiting[0])
        except UserError:
            if waiting[0] in _steps(workdir, config):
                raise
            continue  # deleted meanwhile
        _evaluate(workdir, experiment, source, step, params)
    return 0


def _last(workdir: Path, examples: int, plugins: tuple[str, ...]) -> int:
    """Last step of the training, which may have resumed with another length or batch."""
    return trainer.schedule(read_config(workdir, plugins=plugins), examples, read_batch_size_history(workdir)).steps


def _steps(workdir: Path, config: Config) -> list[int]:
    if not checkpoint_folder(workdir, config.train.checkpoints).is_dir():
        return []
    with closing(Checkpoints(workdir, read_only=True, at=config.train.checkpoints)) as checkpoints:
        return checkpoints.steps()


def _evaluate(workdir: Path, experiment: setup.Experiment, source: data.Source, step: int, params: Params) -> None:
    tokenizer = data.load_tokenizer(data.tokenizer_file(workdir))
    predict, batches = setup.evaluation(experiment, params, tokenizer, source)
    with memory.explained(lambda: memory.smaller_evaluation(experiment.config, experiment.placement)):
        metrics, samples = runner.run(experiment.evaluators, predict, batches)
    if not processes.is_primary():
        return
    runner.write(workdir, step, metrics, samples)
    report = write_report(workdir)
    width = max(map(len, metrics), default=0)
    print(f"{printable(experiment.config.name)}, step {step:,}:")
    for name, value in metrics.items():
        print(printable(f"  {name.ljust(width)}  {value:.4f}"))
    print(printable(f"report: {report}"))
