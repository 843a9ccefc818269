"""mmjax prepare: what a recipe needs before training."""

import argparse
from pathlib import Path

from mmjax import data
from mmjax.commands import wiring
from mmjax.config import Config
from mmjax.train.workdir import open_workdir

HELP = "check a recipe's data set and train its text tokenizer (mmjax train does it by itself where it was not done)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workdir", type=Path, required=True, help="where the tokenizer goes: that of the training to come"
    )


def run(arguments: argparse.Namespace) -> int:
    config: Config = arguments.recipe
    wiring.check(config)
    training = data.open_source(config.data, training=True, seed=config.seed)
    held_out = data.open_source(config.data, training=False, seed=config.seed)
    open_workdir(arguments.workdir, config)
    tokenizer = wiring.prepare_tokenizer(arguments.workdir, config, training)
    evaluation = data.evaluation_size(held_out, config)
    print(
        f"{config.name}: {training.size:,} training and {evaluation:,} evaluation examples, "
        f"{tokenizer.size:,} text tokens; tokenizer: {arguments.workdir / 'tokenizer.model'}"
    )
    return 0
