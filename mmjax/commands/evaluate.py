"""mmjax evaluate: the recipe's evaluators on a checkpoint."""

import argparse
import time
from pathlib import Path

from mmjax import data
from mmjax.commands import wiring
from mmjax.commands.train import intervals
from mmjax.config import Config
from mmjax.evaluate import runner
from mmjax.evaluate.report import write_report
from mmjax.train.checkpoint import Checkpoints
from mmjax.train.workdir import read_recipe
from mmjax.types import UserError

WATCH_SECONDS = 10
HELP = "run the recipe's evaluators on a checkpoint of a workdir"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="of the training")
    parser.add_argument("--step", type=int, help="which checkpoint (default: the newest)")
    parser.add_argument(
        "--watch", action="store_true", help="go on with each new checkpoint until the training is done"
    )


def run(arguments: argparse.Namespace) -> int:
    workdir: Path = arguments.workdir
    config = read_recipe(workdir)
    wiring.check(config)
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"{workdir}: no checkpoint there yet; run mmjax train with this --workdir first")
    parts = wiring.build(config, steps=1)
    tokenizer = data.load_tokenizer(workdir / "tokenizer.model")
    if not arguments.watch:
        _evaluate(workdir, config, parts, tokenizer, arguments.step)
        return 0
    last, _, _ = intervals(config, data.open_source(config.data, training=True, seed=config.seed).size)
    seen: set[int] = set()
    while not any(step >= last for step in seen):
        waiting = [step for step in _steps(workdir) if step not in seen]
        if waiting:  # one at a time: while it is evaluated, others may come and go
            _evaluate(workdir, config, parts, tokenizer, waiting[0])
            seen.add(waiting[0])
        else:
            time.sleep(WATCH_SECONDS)
    return 0


def _steps(workdir: Path) -> list[int]:
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        return checkpoints.steps()
    finally:
        checkpoints.close()


def _evaluate(workdir: Path, config: Config, parts: wiring.Parts, tokenizer: data.Tokenizer, step: int | None) -> None:
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        step, params = checkpoints.restore_params(step)
    finally:
        checkpoints.close()
    predict, batches = wiring.evaluation(parts, params, tokenizer)
    figures, samples = runner.run(parts.evaluators, predict, batches)
    runner.write(workdir, step, figures, samples)
    report = write_report(workdir)
    width = max(map(len, figures), default=0)
    print(f"{config.name}, step {step:,}:")
    for name, value in figures.items():
        print(f"  {name.ljust(width)}  {value:.4f}")
    print(f"report: {report}")
