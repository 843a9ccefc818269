"""mmjax plan: memory and speed of a training on TPUs or GPUs, without the devices."""

import argparse
import functools
import json
import sys
from pathlib import Path

import jax

from mmjax.engine import aot_plan, components
from mmjax.plan import report, search, topology
from mmjax.types import UserError

HELP = (
    "Estimate memory, collectives and bounds on the speed of training, without the devices: by compiling the train "
    "step for TPUs, by arithmetic for GPUs."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--topology",
        required=True,
        help="as in v5e:4x4, v5p:4x4x4, 2xv5e:16x16 (two slices), or 4xh100:8 (four hosts of 8 GPUs)",
    )
    add("--json", action="store_true", help="print one JSON object")
    add("--search", action="store_true", help="rank mesh shapes, rematerialization, kernels and batch sizes")
    add(
        "--compilations",
        type=int,
        default=6,
        metavar="N",
        help="maximum candidates of --search to compile (default: 6)",
    )


def run(arguments: argparse.Namespace) -> int:
    target = topology.parse(arguments.topology)
    if arguments.compilations < 1:
        raise UserError(f"--compilations {arguments.compilations}: must be above 0")
    jax.config.update("jax_platforms", "cpu")  # nothing runs on a device
    config = components.resolve_config(arguments.config, Path(), arguments.plugins)
    if arguments.search:
        tell = functools.partial(print, file=sys.stderr, flush=True)
        ranking = search.search(config, target, arguments.compilations, aot_plan.estimated, aot_plan.compiled, tell)
        print(json.dumps(search.to_json(ranking)) if arguments.json else search.table(ranking))
        return 0
    plan = aot_plan.planned(config, target)
    print(json.dumps(plan.to_json()) if arguments.json else report.table(plan))
    return 0
