"""What an accelerator is needed for, in one run of under eight minutes on one GPU or TPU.

    python benchmarks/accelerator.py --json=accelerator.json [--torch=/tmp/torch/bin/python] [--seconds=480]
    python benchmarks/accelerator.py --json=accelerator.json --parts=step,remat/dots [--again]
    python benchmarks/accelerator.py --json=tiny.json --tiny           # on a CPU, to see that it works

    step/MODEL       the training step in bfloat16: images a second, model FLOPs (as `mmjax plan` counts them) over the
                     published peak, and memory: the allocator's peak, the compiler's total, and the plan by arithmetic
    attention/MODEL  the same with the other attention kernel: cudnn on GPUs, xla on TPUs
    remat/POLICY     the same with rematerialization
    torch/MODEL      the same step and PyTorch's, compiled, in turn, where PyTorch is installed; see peers.py
    sample/MODEL     images sampled a second
    input/MODEL      a model trained from JPEGs, beside the input and the step alone

It needs neither TensorFlow nor data. Every part runs in a process of its own, so that its memory and its failure are
its own, and is written to the JSON when it ends. A part that is in the JSON is not measured again, unless it failed;
what is left when the time is over is named, and measured by the next run.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import accelerator_parts
from accelerator_parts import PARTS, Row, Settings

COLUMNS = ("part", "batch", "ms", "images/s", "utilization", "peak GiB", "compiler", "plan", "note", "took s")


def isolated(arguments: Sequence[str], seconds: float) -> Row | None:
    """What this script prints as JSON when run with these arguments; None where it takes longer."""
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2"} | os.environ
    # One GPU, whoever starts it: PyTorch and mmjax take the same.
    environment["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    command = [sys.executable, __file__, *arguments]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as process:
        try:
            told, _ = process.communicate(timeout=seconds)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with the peers that it started
            if isinstance(error, subprocess.TimeoutExpired):
                return None
            raise
    if process.returncode:
        return {"error": f"ended with status {process.returncode}"}
    row: Row = json.loads(told.splitlines()[-1])
    return row


def measured(name: str, settings: Settings, left: float) -> Row | None:
    """A part's row with the seconds that it took; None where less time was left."""
    begin = time.monotonic()
    if settings.tiny:  # nothing is gained by a process of its own
        row: Row | None = accelerator_parts.outcome(name, settings)
    else:
        options = (f"--run={name}", f"--torch={settings.torch}", f"--platform={settings.platform}")
        row = isolated(options, left)
    return row and row | {"took_seconds": round(time.monotonic() - begin, 1)}


def line(name: str, row: Row, rows: Mapping[str, Row]) -> str:
    """A row of the table; a variant of a step is compared with the step itself, if that is there."""
    note = row.get("note", "") or row.get("error", "") or row.get("skipped", "")
    if "error" in row or "skipped" in row:
        note = f"{'failed' if 'error' in row else 'skipped'}: {note}"
    base = rows.get(f"step/{row.get('model')}", {})
    if name.startswith(("attention/", "remat/")) and "seconds_per_step" in row and "seconds_per_step" in base:
        note = f"{base['seconds_per_step'] / row['seconds_per_step']:.2f} times as fast as step/{row['model']}"
    if "attention" in row:
        note = f"{row['attention']}{', ' if note else ''}{note}"
    cells = {
        "part": name,
        "batch": str(row.get("batch", "")),
        "ms": _number(row.get("seconds_per_step"), 1e3, ".1f"),
        "images/s": _number(row.get("images_per_second"), 1, ",.0f"),
        "utilization": _number(row.get("utilization"), 1, ".1%"),
        "peak GiB": _number(row.get("peak_bytes"), 2**-30, ".2f"),
        "compiler": _number(row.get("compiled_bytes"), 2**-30, ".2f"),
        "plan": _number(row.get("plan_bytes"), 2**-30, ".2f"),
        "note": note,
        "took s": _number(row.get("took_seconds"), 1, ".0f"),
    }
    return f"| {' | '.join(cells[column] for column in COLUMNS)} |"


def _number(value: float | None, scale: float, form: str) -> str:
    return "" if value is None else format(value * scale, form)


def write(path: Path, found: Mapping[str, Any]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def opened(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the JSON holds, after a check that it is of this device, these versions and these sizes."""
    device = isolated(["--run=device"], arguments.seconds) or {"error": f"took over {arguments.seconds:g} s"}
    if "error" in device:
        sys.exit(f"accelerator: the device: {device['error']}")
    found: dict[str, Any] = {"device": device, "tiny": arguments.tiny, "parts": {}}
    if arguments.json.exists():
        before = json.loads(arguments.json.read_text(encoding="utf-8"))
        for field in ("device", "tiny"):
            if before[field] != found[field]:
                sys.exit(
                    f"accelerator: {arguments.json}: has {field} {before[field]}, and this is {found[field]}; "
                    "name another file"
                )
        found["parts"] = before["parts"]
    return found


def run(arguments: argparse.Namespace) -> None:
    begin, found = time.monotonic(), opened(arguments)
    device, rows, path = found["device"], found["parts"], arguments.json
    seconds, rounds = (0.05, 2) if arguments.tiny else (accelerator_parts.SECONDS, accelerator_parts.ROUNDS)
    settings = Settings(arguments.tiny, arguments.torch, device["platform"], seconds, rounds)
    print(f"{device['kind']}, jax {device['jax']}, mmjax {device['mmjax']}; medians of {rounds} rounds\n")
    print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}", flush=True)
    left = []
    # What failed before comes last, so that it does not take the time of what was never measured.
    for name in sorted(arguments.parts, key=lambda name: "error" in rows.get(name, {})):
        if arguments.again or "seconds_per_step" not in rows.get(name, {}):
            remaining = arguments.seconds - (time.monotonic() - begin)
            row = measured(name, settings, remaining) if remaining > 0 else None
            if row is None:
                left.append(name)
                continue
            rows[name] = row
            write(path, found)
        print(line(name, rows[name], rows), flush=True)
    print(f"\n{time.monotonic() - begin:.0f} s; {path}")
    if left:
        print(f"left after {arguments.seconds:g} s, and measured by the same command again: {', '.join(left)}")


def _parts(text: str) -> list[str]:
    wanted = text.split(",")
    for prefix in wanted:
        if not any(name.startswith(prefix) for name in PARTS):
            raise argparse.ArgumentTypeError(f"{prefix!r} begins no part; they are {', '.join(PARTS)}")
    return [name for name in PARTS if name.startswith(tuple(wanted))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("accelerator.json"), help="default: %(default)s")
    parser.add_argument("--torch", default=sys.executable, help="a Python with PyTorch")
    parser.add_argument(
        "--seconds", type=float, default=480.0, help="after which no part begins (default: %(default)s)"
    )
    parser.add_argument("--parts", type=_parts, default=list(PARTS), help="parts, or the first letters of their names")
    parser.add_argument("--again", action="store_true", help="measure what is in the JSON again")
    parser.add_argument("--tiny", action="store_true", help="small models, in a minute on a CPU")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--platform", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.run:
        return run(arguments)
    seconds, rounds = accelerator_parts.SECONDS, accelerator_parts.ROUNDS
    settings = Settings(False, arguments.torch, arguments.platform, seconds, rounds)
    print(
        json.dumps(
            accelerator_parts.device()
            if arguments.run == "device"
            else accelerator_parts.outcome(arguments.run, settings)
        )
    )


if __name__ == "__main__":
    main()
