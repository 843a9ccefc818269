"""mmjax plan: compiles a config's training step for a slice of TPUs that is not here, and tells what it will take."""

import argparse
import json
import sys
from pathlib import Path

import jax

from mmjax.engine import aot_plan, components
from mmjax.plan import report, search, topology
from mmjax.types import UserError

HELP = "compile the training step for a slice of TPUs without one: memory, collectives, bounds on speed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--topology",
        required=True,
        help="as in v5e:4x4, v5p:4x4x4, 2xv5e:16x16 (two slices); 4xh100:8 (four hosts; by arithmetic alone)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--search", action="store_true", help="try mesh shapes, rematerialization, kernels and batches, and rank them"
    )
    parser.add_argument(
        "--compilations", type=int, default=6, metavar="N", help="compile at most so many candidates of --search (6)"
    )


def run(arguments: argparse.Namespace) -> int:
    wanted = topology.parse(arguments.topology)
    if arguments.compilations < 1:
        raise UserError(f"--compilations {arguments.compilations}: must be above 0")
    jax.config.update("jax_platforms", "cpu")  # nothing runs: shapes are all there is
    config = components.resolve_config(arguments.config, Path(), arguments.plugins)
    if arguments.search:
        found = search.search(config, wanted, arguments.compilations, aot_plan.estimated, aot_plan.compiled, _tell)
        print(json.dumps(search.to_json(found)) if arguments.json else search.table(found))
        return 0
    plan = aot_plan.planned(config, wanted)
    print(json.dumps(plan.to_json()) if arguments.json else report.table(plan))
    return 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
