"""mmjax train: trains a config, or resumes training."""

import argparse
from pathlib import Path

from mmjax.engine.components import resolve_config
from mmjax.engine.train import train
from mmjax.train import loop
from mmjax.types import UserError

HELP = "Train a config. With the same --workdir again, training resumes from the newest checkpoint."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="folder of checkpoints, metrics and the report")
    parser.add_argument(
        "--stop-at", type=int, metavar="STEP", help="save a checkpoint and stop after this step; run again to resume"
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.stop_at is not None and arguments.stop_at < 1:
        raise UserError(f"--stop-at {arguments.stop_at}: must be a step from 1 on")
    config = resolve_config(arguments.config, arguments.workdir, arguments.plugins)
    return loop.exit_status(train(config, arguments.workdir, arguments.stop_at))
