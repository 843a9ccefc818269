"""The training command of the launchers, checked before any machine is created."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from slices import Slices

from mmjax.config import Config, load_config
from mmjax.config.load import split_argument
from mmjax.parallel.mesh import mesh_sizes
from mmjax.types import UserError

ROOT = Path(__file__).resolve().parents[1]
_MOUNTS = "/gcs"  # mount point of buckets on every machine
# Valid as a TPU node, and as a Kubernetes name with room for JobSet's suffixes.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")


def given(text: str) -> str:
    """The text of an argument, which is not that of an unset variable."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty; needs a value")
    return text


def count(text: str) -> int:
    """A number of times or seconds, as of an int32 of Kubernetes."""
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 on, not {text!r}")
    return int(text)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UserError, also for empty values of arguments without a type."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.register("type", None, given)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def add_training_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds --config and --workdir; overrides --config.FIELD=VALUE are left over by the parser."""
    parser.add_argument("--config", required=True, metavar="FILE[:ARGUMENTS]", help="a config in this checkout")
    parser.add_argument("--workdir", required=True, metavar="gs://BUCKET/DIR", help="where the run lives")
    parser.epilog = "--config.FIELD=VALUE overrides a field, as for mmjax train"


def add_slice_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--topology", required=True, metavar="v5e:4x4", help="TPU slice; 2xv5e:4x4 for two")
    parser.add_argument("--spot", action="store_true", help="capacity that may be taken away at any time, cheaper")


def check_name(name: str) -> None:
    """Raises UserError for a name that is invalid for TPU VMs or Kubernetes."""
    if not _NAME.fullmatch(name):
        raise UserError(f"--name {name}: must be up to 40 of a-z, 0-9 and -, beginning with a letter, as in my-run")


def bucket_folder(workdir: str) -> tuple[str, str]:
    """BUCKET and DIR of gs://BUCKET/DIR.

    Raises:
        UserError: for another workdir.
    """
    matched = re.fullmatch(r"gs://([a-z0-9][-._a-z0-9]+)/(.+?)/*", workdir)
    if not matched or {"", ".", ".."} & set(matched[2].split("/")):
        raise UserError(f"--workdir {workdir}: must be in a bucket, as machines are not kept: gs://BUCKET/DIR")
    return matched[1], matched[2]


def mount_folder(bucket: str) -> str:
    """The mount point of a bucket on every machine."""
    return f"{_MOUNTS}/{bucket}"


def compiled_folder(bucket: str) -> str:
    """The folder of the persistent compilation cache, shared by all machines."""
    return f"{mount_folder(bucket)}/mmjax-compiled"


def training_command(arguments: argparse.Namespace, rest: Sequence[str], slices: Slices) -> list[str]:
    """`mmjax train` with a config that resolves and fits the slices, in a workdir on the mounted bucket.

    Checkpoints, which all hosts write, bypass the mount, unless the config or an override says where they are.

    Args:
        arguments: of add_training_arguments.
        rest: left over by the parser: overrides `--config.FIELD=VALUE`.

    Raises:
        UserError: for what would fail on the machines.
    """
    overrides = {}
    for word in rest:
        name, equals, value = word.removeprefix("--config.").partition("=")
        if not (word.startswith("--config.") and equals):
            raise UserError(f"unknown argument {word}; overrides are written --config.FIELD=VALUE")
        overrides[name] = value
    path, config_arguments = split_argument(arguments.config)
    try:
        inside = Path(path).resolve().relative_to(ROOT)
    except ValueError:
        raise UserError(f"--config {path}: is outside of {ROOT}, which is all that the machines get") from None
    bucket, folder = bucket_folder(arguments.workdir)
    config_dict = load_config(arguments.config, overrides)
    check_fits(config_dict, slices.devices, slices.count)
    config = f"{inside}:{config_arguments}" if config_arguments else str(inside)
    command = ["mmjax", "train", f"--config={config}", f"--workdir={mount_folder(bucket)}/{folder}", *rest]
    if not config_dict.train.checkpoints and "train.checkpoints" not in overrides:
        command.append(f"--config.train.checkpoints=gs://{bucket}/{folder}/checkpoints")
    return command


def check_fits(config: Config, devices: int, slices: int = 1, part: str = "") -> None:
    """Raises UserError if the mesh or batch of a config, or of one that it is built on, does not fit the devices."""
    try:
        shards = devices // mesh_sizes(config.mesh, devices, slices)["model"]
    except UserError as error:
        raise UserError(f"{part}{error}") from None
    if config.train.batch % shards:
        raise UserError(
            f"{part}train.batch: {config.train.batch} does not split over {shards} devices; take a multiple of {shards}"
        )
    for name, component in config.components.items():
        if component.config is not None and not component.path:  # else it is already trained
            check_fits(component.config, devices, slices, f"{part}components.{name}.config.")
    if config.pretraining is not None:
        check_fits(config.pretraining, devices, slices, f"{part}pretraining.")


def run_main(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Exits with main's status: 0 done, 2 a one-line user error, 130 on Ctrl-C."""
    try:
        status = main(sys.argv[1:])
    except UserError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
