"""The training command that every launcher starts, checked before a machine costs anything."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from slices import Slices

from mmjax.config import Config, load_recipe
from mmjax.types import UserError

ROOT = Path(__file__).resolve().parents[1]
# Of a Kubernetes name with room for what JobSet appends, and of a TPU node.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")


class Parser(argparse.ArgumentParser):
    """Tells a wrong argument as a UserError."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """What to train; --config.FIELD=VALUE is taken from what the parser leaves over."""
    parser.add_argument("--config", required=True, metavar="FILE[:ARGUMENTS]", help="a recipe in this checkout")
    parser.add_argument("--workdir", required=True, metavar="gs://BUCKET/DIR", help="where the run lives")
    parser.epilog = "--config.FIELD=VALUE overrides a field, as for mmjax train"


def add_slice_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--topology", required=True, metavar="v5e:4x4", help="TPU slice; 2xv5e:4x4 for two")
    parser.add_argument("--spot", action="store_true", help="capacity that may be taken away at any time, cheaper")


def check_name(name: str) -> None:
    """Raises UserError for a name that TPU VMs or Kubernetes would refuse later."""
    if not _NAME.fullmatch(name):
        raise UserError(f"--name {name}: must be up to 40 of a-z, 0-9 and -, beginning with a letter, as in my-run")


def training_command(arguments: argparse.Namespace, rest: Sequence[str], slices: Slices) -> list[str]:
    """`mmjax train` with a recipe that resolves and fits the slices.

    Args:
        arguments: of add_training_arguments.
        rest: what the parser left over: overrides `--config.FIELD=VALUE`.

    Raises:
        UserError: where the machines would stand there and find the mistake themselves.
    """
    overrides = {}
    for word in rest:
        name, equals, value = word.removeprefix("--config.").partition("=")
        if not (word.startswith("--config.") and equals):
            raise UserError(f"unknown argument {word}; overrides are written --config.FIELD=VALUE")
        overrides[name] = value
    path, _, recipe_arguments = arguments.config.partition(":")
    try:
        inside = Path(path).resolve().relative_to(ROOT)
    except ValueError:
        raise UserError(f"--config {path}: lies outside of {ROOT}, which is all the machines get") from None
    if not re.fullmatch(r"gs://[^/]+/.+", arguments.workdir):
        raise UserError(f"--workdir {arguments.workdir}: machines come and go; name a place such as gs://BUCKET/DIR")
    check_fits(load_recipe(arguments.config, overrides), slices.devices)
    config = f"{inside}:{recipe_arguments}" if recipe_arguments else str(inside)
    return ["mmjax", "train", f"--config={config}", f"--workdir={arguments.workdir}", *rest]


def check_fits(config: Config, devices: int, part: str = "") -> None:
    """Raises UserError where the mesh or the batch of a recipe, or of one that it is built on, does not fit."""
    axes = vars(config.mesh)
    product = 1
    for size in axes.values():
        product *= 1 if size == -1 else size
    if (devices % product) if -1 in axes.values() else (devices != product):
        wanted = " x ".join(f"{name}={size}" for name, size in axes.items())
        raise UserError(f"{part}mesh: {wanted} does not multiply to the {devices} devices of the topology")
    model = config.mesh.model if config.mesh.model != -1 else devices // product
    if config.train.batch % (devices // model):
        raise UserError(
            f"{part}train.batch: {config.train.batch} does not split over {devices // model} devices; "
            f"take a multiple of {devices // model}"
        )
    for name in ("tokenizer", "reference", "pretraining"):
        built_on = getattr(config, name)
        if built_on is not None and not (name != "pretraining" and getattr(config.tokens, name)):  # trained elsewhere
            check_fits(built_on, devices, f"{part}{name}.")


def run_main(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Ends the process with main's exit status: 0 done, 2 the user's mistake in one line, 130 on Ctrl-C."""
    try:
        status = main(sys.argv[1:])
    except UserError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
