"""The training command that every launcher starts, checked before a machine costs anything."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from slices import Slices

from mmjax.config import Config, load_config
from mmjax.parallel.mesh import mesh_sizes
from mmjax.types import UserError

ROOT = Path(__file__).resolve().parents[1]
_MOUNTS = "/gcs"  # on every machine: buckets by their names
# Of a Kubernetes name with room for what JobSet appends, and of a TPU node.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")


class Parser(argparse.ArgumentParser):
    """Tells a wrong argument as a UserError."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """What to train; --config.FIELD=VALUE is taken from what the parser leaves over."""
    parser.add_argument("--config", required=True, metavar="FILE[:ARGUMENTS]", help="a config in this checkout")
    parser.add_argument("--workdir", required=True, metavar="gs://BUCKET/DIR", help="where the run lives")
    parser.epilog = "--config.FIELD=VALUE overrides a field, as for mmjax train"


def add_slice_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--topology", required=True, metavar="v5e:4x4", help="TPU slice; 2xv5e:4x4 for two")
    parser.add_argument("--spot", action="store_true", help="capacity that may be taken away at any time, cheaper")


def check_name(name: str) -> None:
    """Raises UserError for a name that TPU VMs or Kubernetes would refuse later."""
    if not _NAME.fullmatch(name):
        raise UserError(f"--name {name}: must be up to 40 of a-z, 0-9 and -, beginning with a letter, as in my-run")


def bucket_folder(workdir: str) -> tuple[str, str]:
    """BUCKET and DIR of gs://BUCKET/DIR.

    Raises:
        UserError: where the workdir is no such folder.
    """
    matched = re.fullmatch(r"gs://([a-z0-9][-._a-z0-9]+)/(.+?)/*", workdir)
    if not matched or {"", ".", ".."} & set(matched[2].split("/")):
        raise UserError(f"--workdir {workdir}: machines come and go; name a place such as gs://BUCKET/DIR")
    return matched[1], matched[2]


def mount_folder(bucket: str) -> str:
    """Where a bucket is mounted on every machine."""
    return f"{_MOUNTS}/{bucket}"


def compiled_folder(bucket: str) -> str:
    """Where compiled programs are kept: all machines read what the first of them writes, also those that come later."""
    return f"{mount_folder(bucket)}/mmjax-compiled"


def training_command(arguments: argparse.Namespace, rest: Sequence[str], slices: Slices) -> list[str]:
    """`mmjax train` with a config that resolves and fits the slices, in a workdir on the mounted bucket.

    The checkpoints, which all hosts write, go past the mount, unless the config or an override says where they lie.

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
    path, _, config_arguments = arguments.config.partition(":")
    try:
        inside = Path(path).resolve().relative_to(ROOT)
    except ValueError:
        raise UserError(f"--config {path}: lies outside of {ROOT}, which is all the machines get") from None
    bucket, folder = bucket_folder(arguments.workdir)
    config_dict = load_config(arguments.config, overrides)
    check_fits(config_dict, slices.devices, slices.count)
    config = f"{inside}:{config_arguments}" if config_arguments else str(inside)
    command = ["mmjax", "train", f"--config={config}", f"--workdir={mount_folder(bucket)}/{folder}", *rest]
    if not config_dict.train.checkpoints and "train.checkpoints" not in overrides:
        command.append(f"--config.train.checkpoints=gs://{bucket}/{folder}/checkpoints")
    return command


def check_fits(config: Config, devices: int, slices: int = 1, part: str = "") -> None:
    """Raises UserError where the mesh or the batch of a config, or of one that it is built on, does not fit."""
    try:
        ways = devices // mesh_sizes(config.mesh, devices, slices)["model"]
    except UserError as error:
        raise UserError(f"{part}{error}") from None
    if config.train.batch % ways:
        raise UserError(
            f"{part}train.batch: {config.train.batch} does not split over {ways} devices; take a multiple of {ways}"
        )
    trained_first = {
        f"components.{name}.config": each.config for name, each in config.components.items() if not each.path
    }
    for name, built_on in {**trained_first, "pretraining": config.pretraining}.items():
        if built_on is not None:
            check_fits(built_on, devices, slices, f"{part}{name}.")


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
