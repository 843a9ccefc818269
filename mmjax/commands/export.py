"""mmjax export: a checkpoint to a model folder."""

import argparse
from pathlib import Path

import jax

from mmjax.config import Config
from mmjax.data import load_tokenizer
from mmjax.engine import components
from mmjax.export import write_model_folder
from mmjax.export.load import restored, restored_lora
from mmjax.export.lora import write_lora
from mmjax.export.model_folder import check_model_folder
from mmjax.files import check_writable, finite, read_object
from mmjax.terminal import printable
from mmjax.train.checkpoint import step_argument
from mmjax.train.workdir import read_config
from mmjax.types import UserError

HELP = "Write a checkpoint as a model folder, which mmjax.load and the other commands read."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workdir", type=Path, required=True, help="workdir of the training")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="the model folder to write, or with --lora=alone the file; an existing one is replaced",
    )
    parser.add_argument("--step", type=step_argument, help='step of the checkpoint, or "best" (default: the newest)')
    parser.add_argument(
        "--lora",
        choices=("merged", "alone"),
        help="of a LoRA: added to the kernels of its model (the default), or alone, as a .safetensors file",
    )


def run(arguments: argparse.Namespace) -> int:
    workdir: Path = arguments.workdir
    config = read_config(workdir, plugins=arguments.plugins)
    if arguments.lora and not config.lora.rank:
        raise UserError(f"--lora: {workdir} has trained a whole model; leave --lora out")
    if arguments.lora == "alone":
        return _export_lora(arguments, config)
    check_model_folder(arguments.out)
    step, params = restored(workdir, config, arguments.step)
    metrics = {k: v for k, v in read_object(workdir / "evaluation" / f"{step}.json").items() if finite(v)}
    tokenizer = load_tokenizer(workdir / "tokenizer.model")
    params = {**params, **jax.device_get(components.trained(config, workdir))}
    write_model_folder(arguments.out, config, params, tokenizer.proto, step, metrics)
    print(printable(f"{config.name}, step {step:,}: {arguments.out}"))
    return 0


def _export_lora(arguments: argparse.Namespace, config: Config) -> int:
    out: Path = arguments.out
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: a LoRA alone is a file; its name must end in .safetensors")
    check_writable(out)
    step, added, base = restored_lora(arguments.workdir, config, arguments.step)
    write_lora(out, config, added, base)
    print(printable(f"{config.name}, step {step:,}: {out}"))
    return 0
