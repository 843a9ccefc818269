"""mmjax prepare: what a recipe needs before training."""

import argparse
from pathlib import Path

from mmjax import data
from mmjax.commands import stages, wiring
from mmjax.commands.train import train
from mmjax.config import Config
from mmjax.train.workdir import open_workdir

HELP = (
    "check a recipe's data set and train its text tokenizer; for a masked generator first train its visual tokenizer, "
    "and encode the data set with it (mmjax train does by itself what was not done)"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workdir", type=Path, required=True, help="where the tokenizers and codes go: that of the training to come"
    )


def run(arguments: argparse.Namespace) -> int:
    workdir: Path = arguments.workdir
    config: Config = stages.settled(arguments.recipe, workdir)
    wiring.check(config)
    status, frozen = stages.tokenizer_params(config, workdir, train)
    if status:
        return status
    training, held_out = stages.sources(config, workdir, frozen, repair=True)
    open_workdir(workdir, config)
    tokenizer = wiring.prepare_tokenizer(workdir, config, training)
    evaluation = data.evaluation_size(held_out, config)
    encoded = f"; visual tokens: {config.tokens.cache or workdir / 'tokens'}" if stages.has_two(config) else ""
    print(
        f"{config.name}: {training.size:,} training and {evaluation:,} evaluation examples, "
        f"{tokenizer.size:,} text tokens; tokenizer: {workdir / 'tokenizer.model'}{encoded}"
    )
    return 0
