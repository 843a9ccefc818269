"""mmjax train: trains a config, resumes by itself, evaluates on the way."""

import argparse
from pathlib import Path

from mmjax.engine.components import resolve_config
from mmjax.engine.train import train
from mmjax.train import loop
from mmjax.types import UserError

HELP = "train a config; started again with the same workdir it resumes where it stopped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="where checkpoints, metrics and the report go")
    parser.add_argument(
        "--stop-at", type=int, metavar="STEP", help="save and end after this step; start again to resume"
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.stop_at is not None and arguments.stop_at < 1:
        raise UserError(f"--stop-at {arguments.stop_at}: must be a step from 1 on")
    config = resolve_config(arguments.config, arguments.workdir, arguments.plugins)
    return loop.exit_status(train(config, arguments.workdir, arguments.stop_at))
