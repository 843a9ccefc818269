"""mmjax export: a checkpoint to a model folder."""

import argparse
from pathlib import Path

import jax

from mmjax.data import load_tokenizer
from mmjax.engine import components
from mmjax.export import write_model_folder
from mmjax.export.load import restored
from mmjax.export.model_folder import check_model_folder
from mmjax.files import finite, read_object
from mmjax.terminal import printable
from mmjax.train.checkpoint import step_argument
from mmjax.train.workdir import read_config

HELP = "Write a checkpoint as a model folder, which mmjax.load and the other commands read."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="workdir of the training")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="the model folder to write; an existing model folder is replaced",
    )
    parser.add_argument("--step", type=step_argument, help='step of the checkpoint, or "best" (default: the newest)')


def run(arguments: argparse.Namespace) -> int:
    workdir: Path = arguments.workdir
    config = read_config(workdir, plugins=arguments.plugins)
    check_model_folder(arguments.out)
    step, params = restored(workdir, config, arguments.step)
    metrics = {k: v for k, v in read_object(workdir / "evaluation" / f"{step}.json").items() if finite(v)}
    tokenizer = load_tokenizer(workdir / "tokenizer.model")
    params = {**params, **jax.device_get(components.trained(config, workdir))}
    write_model_folder(arguments.out, config, params, tokenizer.proto, step, metrics)
    print(printable(f"{config.name}, step {step:,}: {arguments.out}"))
    return 0
