"""mmjax export: a checkpoint to a model folder, or pretrained weights to a folder in Hugging Face's layout."""

import argparse
from pathlib import Path

import jax

from mmjax import pretrained
from mmjax.config import Config
from mmjax.data import load_tokenizer, tokenizer_file
from mmjax.engine import components, vision_encoder
from mmjax.export import write_model_folder
from mmjax.export.load import restored, restored_lora
from mmjax.export.lora import read_lora, write_lora
from mmjax.export.model_folder import check_model_folder
from mmjax.export.pretrained_models import is_pretrained
from mmjax.files import check_writable, finite, names_in, read_object
from mmjax.terminal import printable
from mmjax.train.checkpoint import step_argument
from mmjax.train.workdir import read_config
from mmjax.types import UserError

HELP = "Write a checkpoint as a model folder, which mmjax.load and the other commands read."
MMJAX, HUGGING_FACE = FORMATS = ("mmjax", "hugging_face")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workdir",
        type=Path,
        required=True,
        help="workdir of the training; with --formats=hugging_face also a folder in Hugging Face's layout",
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="the folder to write, or with --lora=alone the file; an existing model folder or LoRA is replaced",
    )
    parser.add_argument("--step", type=step_argument, help='step of the checkpoint, or "best" (default: the newest)')
    parser.add_argument(
        "--formats",
        choices=FORMATS,
        default=MMJAX,
        help="mmjax: a model folder (the default); hugging_face: a pretrained image encoder that was trained "
        "further, or the weights of a folder, under their own names, which transformers loads",
    )
    parser.add_argument(
        "--lora",
        choices=("merged", "alone"),
        help="of a LoRA: added to the kernels of its model (the default), or alone, as a .safetensors file",
    )


def run(arguments: argparse.Namespace) -> int:
    workdir: Path = arguments.workdir
    if is_pretrained(workdir):
        return _pretrained(arguments)
    config = read_config(workdir, plugins=arguments.plugins)
    if arguments.lora and not config.lora.rank:
        raise UserError(f"--lora: {workdir} has trained a whole model; leave --lora out")
    if arguments.lora == "alone":
        return _export_lora(arguments, config)
    if arguments.formats == HUGGING_FACE:
        _check_out(workdir, arguments.out)
        step, params = restored(workdir, config, arguments.step)
        checkpoint = vision_encoder.write(arguments.out, config, jax.device_get(params))
        of = f"{checkpoint.spec.name} of {config.name}, step {step:,}"
        print(printable(f"{of}: {arguments.out}{_left_out(checkpoint)}"))
        return 0
    check_model_folder(arguments.out)
    step, params = restored(workdir, config, arguments.step)
    metrics = {k: v for k, v in read_object(workdir / "evaluation" / f"{step}.json").items() if finite(v)}
    tokenizer = load_tokenizer(tokenizer_file(workdir))
    params = {**params, **jax.device_get(components.trained(config, workdir))}
    write_model_folder(arguments.out, config, params, tokenizer.proto, step, metrics)
    print(printable(f"{config.name}, step {step:,}: {arguments.out}"))
    return 0


def _export_lora(arguments: argparse.Namespace, config: Config) -> int:
    out: Path = arguments.out
    if arguments.formats != MMJAX:
        raise UserError("--lora=alone: is a file of mmjax's own names; leave --formats out")
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out}: a LoRA alone is a file; its name must end in .safetensors")
    if out.exists():
        read_lora(out)  # nothing else is replaced
    check_writable(out)
    step, added, base = restored_lora(arguments.workdir, config, arguments.step)
    write_lora(out, config, added, base)
    print(printable(f"{config.name}, step {step:,}: {out}"))
    return 0


def _pretrained(arguments: argparse.Namespace) -> int:
    folder, out = arguments.workdir, arguments.out
    if arguments.formats != HUGGING_FACE:
        raise UserError(f"--workdir {folder}: is in Hugging Face's layout; write it with --formats=hugging_face")
    for name in ("step", "lora"):
        if getattr(arguments, name) is not None:
            raise UserError(f"--{name}: is of a training, and {folder} is a pretrained model; leave it out")
    _check_out(folder, out)
    checkpoint = pretrained.open_checkpoint(folder, arguments.plugins)
    pretrained.write(out, checkpoint, pretrained.load(checkpoint))
    print(printable(f"{checkpoint.spec.name}: {out}{_left_out(checkpoint)}"))
    return 0


def _left_out(checkpoint: pretrained.Checkpoint) -> str:
    return f"; left out: {pretrained.listed(list(checkpoint.unread), 3)}" if checkpoint.unread else ""


def _check_out(folder: Path, out: Path) -> None:
    """Raises UserError if a folder in Hugging Face's layout cannot be written."""
    if out.resolve() == folder.resolve():
        raise UserError(f"--out {out}: is the folder that is read; name another one")
    if out.exists() and not (out.is_dir() and not names_in(out)):  # it may be what was downloaded or trained
        raise UserError(f"--out {out}: exists and is not empty; name another one")
    try:
        check_writable(out, folder=True)
    except UserError as error:
        raise UserError(f"--out {error}") from None
