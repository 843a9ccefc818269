"""Trains a config with several seeds and prints the mean and the worst of each metric: a claim from one run is none.

    python benchmarks/seeds.py --config=configs/quickstart.py --seeds=5 --workdir=runs/seeds
    python benchmarks/seeds.py --config=configs/quickstart_describe.py --workdir=runs/seeds --config.train.steps=500

The seed of a run is also that of the components that it trains. A run that is complete is not trained again, one that
was interrupted resumes. The table is also written to WORKDIR/seeds.md.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.config.load import read_config_dict

COSTS = ("error", "distance", "fid/", "kid/")  # in names of metrics of which less is better, beside losses


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, metavar="FILE[:arguments]")
    parser.add_argument("--workdir", required=True, type=Path, metavar="DIR", help="of the runs, DIR/SEED")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="0 to N - 1 (default: %(default)s)")
    arguments, options = parser.parse_known_args()
    if unknown := [option for option in options if not option.startswith("--config.")]:
        parser.error(f"{unknown[0]}: not understood; other options are --config.FIELD=VALUE")
    fields = list(seeds(read_config_dict(arguments.config)))
    rows = []
    for seed in range(arguments.seeds):
        workdir, begin = arguments.workdir / str(seed), time.time()
        command = [sys.executable, "-m", "mmjax", "train", f"--config={arguments.config}", f"--workdir={workdir}"]
        command += [f"--config.{field}={seed}" for field in fields]
        if status := subprocess.run([*command, *options]).returncode:
            return status
        newest = max((workdir / "evaluation").glob("[0-9]*[0-9].json"), key=lambda path: int(path.stem))
        rows.append(json.loads(newest.read_text(encoding="utf-8")))
        print(f"seed {seed}: {time.time() - begin:.0f} s", flush=True)
    text = table(rows)
    (arguments.workdir / "seeds.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


def seeds(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yields the names of the seeds of a config and of the configs in it that are trained first."""
    yield f"{prefix}seed"
    if isinstance(config.get("pretraining"), Mapping):
        yield from seeds(config["pretraining"], f"{prefix}pretraining.")
    for name, component in config.get("components", {}).items():
        if isinstance(component, Mapping):  # else a trained one
            yield from seeds(component.get("config", component), f"{prefix}components.{name}.config.")


def table(rows: Sequence[Mapping[str, float]]) -> str:
    """The metrics of all seeds in Markdown. The worst is the largest of a loss or an error, else the smallest."""
    lines = ["| metric | by seed | mean | worst |", "| --- | --- | --- | --- |"]
    for name in rows[0]:
        values = [row[name] for row in rows]
        is_cost = "/" not in name or any(mark in name for mark in COSTS)
        worst = max(values) if is_cost else min(values)
        each = ", ".join(f"{value:.3f}" for value in values)
        lines.append(f"| {name} | {each} | {sum(values) / len(values):.3f} | {worst:.3f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
