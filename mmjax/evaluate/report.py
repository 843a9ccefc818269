"""The report of a workdir: metrics, curves and images in one HTML file."""

import base64
import datetime
import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from mmjax.evaluate.page import page
from mmjax.files import read_lines, write_file
from mmjax.sample.video import timed_gif, to_png
from mmjax.types import UserError

PIXELATED_BELOW = 128  # smaller images are upscaled without interpolation
STRIPS, STRIP_IMAGES = 12, 8
TILES = (
    "scenes/all",
    "captions/true",
    "captions/cider",
    "vqa/accuracy",
    "retrieval/image_to_text_r1",
    "classification/accuracy",
    "zero_shot/accuracy",
    "reconstruction/psnr",
    "reconstruction/ssim",
    "loss",
)
UNITS = {"reconstruction/psnr": "dB"}
# Labels of the time accounting in metrics.jsonl, split "time".
KINDS_OF_TIME = {
    "steps": "training steps",
    "start": "startup",
    "compile": "compilation",
    "data": "waiting for data",
    "evaluation": "evaluation",
    "checkpoint": "checkpointing",
    "lost": "lost to restarts",
}


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one evaluation, None where not finite, and the files of its samples by name."""

    step: int
    metrics: dict[str, float | None]
    samples: dict[str, tuple[dict[str, Any], Path]]


def write_report(workdir: Path) -> Path:
    """Writes WORKDIR/report.html, and returns its path.

    Works at any time of a run: what is missing or incomplete is left out.

    Raises:
        UserError: if there is no such folder, or the report cannot be written.
    """
    if not workdir.is_dir():
        raise UserError(f"{workdir}: no such folder; name the --workdir of a training")
    about = _read_json(workdir / "config.json")
    config, versions = about.get("config", {}), about.get("versions", {})
    name = config.get("name") or workdir.resolve().name
    lines = list(read_lines(workdir / "metrics.jsonl"))
    metrics = [row for row in lines if row.get("split") != "time"]
    evaluations = read_evaluations(workdir / "evaluation")
    steps = [row["step"] for row in metrics if isinstance(row.get("step"), int)] + [e.step for e in evaluations]
    best = best_evaluation(evaluations, config.get("train", {}).get("best_metric", "-loss"))
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    content = page(
        title=name,
        subtitle=f"{workdir} · " + (f"step {max(steps):,}" if steps else "no step logged yet"),
        sections=[
            _tiles(evaluations),
            _metrics(evaluations, best),
            _curves(metrics, list(config.get("losses", {}))),
            _samples(evaluations),
            _progress(evaluations),
            _time([row for row in lines if row.get("split") == "time"]),
            _folded("Config", json.dumps(config, indent=2, ensure_ascii=False) if config else ""),
            _folded("Versions", "\n".join(f"{package} {version}" for package, version in versions.items())),
        ],
        footer=f"Written {now} by mmjax {versions.get('mmjax', '')}".rstrip(),
    )
    path = workdir / "report.html"
    write_file(path, content.encode())
    return path


def read_evaluations(folder: Path) -> list[Evaluation]:
    """The evaluations of a workdir by step."""
    found = []
    for path in sorted(folder.glob("*.json"), key=lambda path: (len(path.stem), path.stem)):
        if path.stem.isdecimal():
            numbers = {k: v for k, v in _read_json(path).items() if v is None or isinstance(v, (int, float))}
            metrics = {name: None if value is None else float(value) for name, value in numbers.items()}
            samples = {}
            for described in sorted(folder.glob(f"{path.stem}.*.json")):
                about = _read_json(described)
                image = described.with_suffix(".gif" if "frames" in about else ".png")
                if {"prompts", "rows", "cell"} <= about.keys() and _is_image(image):
                    samples[described.stem.partition(".")[2]] = about, image
            found.append(Evaluation(int(path.stem), metrics, samples))
    return found


def _is_image(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            for frame in ImageSequence.Iterator(image):
                frame.load()
    except (OSError, SyntaxError):
        return False
    return True


def best_evaluation(evaluations: Sequence[Evaluation], best: str) -> Evaluation | None:
    """The evaluation with the largest metric `best`, or the smallest with "-" before its name; of ties, the last."""
    name, sign = best.removeprefix("-"), -1 if best.startswith("-") else 1
    measured = [(sign * value, e.step, e) for e in evaluations if (value := e.metrics.get(name)) is not None]
    return max(measured, key=lambda entry: entry[:2])[2] if measured else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "not finite"
    return f"{value:.4g}" if abs(value) < 1 else f"{value:,.2f}"


def _section(title: str, content: str, note: str = "") -> str:
    small = f"<small>{html.escape(note)}</small>" if note else ""
    return f"<section><h2>{html.escape(title)}{small}</h2>\n{content}</section>"


def _tiles(evaluations: Sequence[Evaluation]) -> str:
    if not evaluations:
        return ""
    metrics = evaluations[-1].metrics
    tiles = [
        f"<div class=tile><b>{_number(metrics[name])}</b><span>{html.escape(_with_unit(name))}</span></div>"
        for name in TILES
        if name in metrics
    ]
    return f"<div class=tiles>{''.join(tiles)}</div>"


def _with_unit(name: str) -> str:
    return f"{name} ({UNITS[name]})" if name in UNITS else name


def _metrics(evaluations: Sequence[Evaluation], best: Evaluation | None) -> str:
    if not evaluations:
        return _section("Metrics", "<p class=empty>No evaluation yet.</p>")
    last = evaluations[-1]
    columns = [("last", last)] + ([("best", best)] if best and best is not last else [])
    head = "".join(f"<th>{title}, step {evaluation.step:,}</th>" for title, evaluation in columns)
    names = dict.fromkeys(name for _, evaluation in columns for name in evaluation.metrics)
    body = "".join(
        f"<tr><td>{html.escape(_with_unit(name))}</td>"
        + "".join(f"<td>{_number(e.metrics[name]) if name in e.metrics else '–'}</td>" for _, e in columns)
        + "</tr>"
        for name in names
    )
    note = "the last evaluation is also the best" if best is last and len(evaluations) > 1 else ""
    table = f"<div class=table><table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    return _section("Metrics", table, note)


def _curves(metrics: Iterable[Mapping[str, Any]], terms: Sequence[str]) -> str:
    from mmjax.evaluate import curves  # here, since matplotlib is slow to import

    charts = curves.charts(metrics, terms)
    if not charts:
        return _section("Curves", "<p class=empty>Nothing logged yet.</p>")
    return _section("Curves", f"<div class=charts>{''.join(map(curves.to_html, charts))}</div>", "over steps")


class _Cells:
    """Cuts single images out of a file of samples."""

    def __init__(self, about: Mapping[str, Any], path: Path):
        self.height, self.width = about["cell"]
        self.kind = "gif" if "frames" in about else "png"
        self.frames, self.durations = [], []
        with Image.open(path) as image:
            for frame in ImageSequence.Iterator(image):
                self.frames.append(np.asarray(frame.convert("RGB")))
                self.durations.append(frame.info.get("duration", 0))

    def cut(self, row: int, column: int, columns: int = 1) -> str:
        """An <img> of `columns` adjacent images in a row."""
        rows = slice(row * self.height, (row + 1) * self.height)
        across = slice(column * self.width, (column + columns) * self.width)
        frames = np.stack([frame[rows, across] for frame in self.frames])
        content = timed_gif(frames, self.durations) if self.kind == "gif" else to_png(frames[0])
        data = base64.b64encode(content).decode()
        sharp = " class=pixels" if max(self.height, self.width) < PIXELATED_BELOW else ""
        size = f"width={frames.shape[2]} height={frames.shape[1]}"
        return f'<img{sharp} alt="" {size} src="data:image/{self.kind};base64,{data}">'


def _samples(evaluations: Sequence[Evaluation]) -> str:
    latest = next((e for e in reversed(evaluations) if e.samples), None)
    if latest is None:
        return _section("Samples", "<p class=empty>No samples yet.</p>")
    sections = []
    for name, (about, path) in latest.samples.items():
        cells = _Cells(about, path)
        cards = []
        for column, prompt in enumerate(about["prompts"]):
            images = "".join(
                f"<div>{cells.cut(row, column)}{html.escape(title)}</div>" for row, title in enumerate(about["rows"])
            )
            cards.append(f"<div class=sample><div class=pair>{images}</div><p>{html.escape(prompt)}</p></div>")
        width = f"min(100%, {min(max(cells.width, 112), 288) * len(about['rows'])}px)"
        title = "Samples" if name == "samples" else f"Samples: {name}"
        grid = f'<div class=samples style="--card-width: {width}">{"".join(cards)}</div>'
        sections.append(_section(title, grid, f"step {latest.step:,}"))
    return "\n".join(sections)


def _progress(evaluations: Sequence[Evaluation]) -> str:
    """The first row of samples of up to twelve evaluations at equal distances."""
    drawn = [e for e in evaluations if e.samples]
    if len(drawn) < 2:
        return ""
    count = min(STRIPS, len(drawn))
    chosen = [drawn[round(i * (len(drawn) - 1) / (count - 1))] for i in range(count)]
    strips = []
    for evaluation in chosen:
        about, path = next(iter(evaluation.samples.values()))
        columns = min(STRIP_IMAGES, len(about["prompts"]))
        strips.append(f"<span>{evaluation.step:,}</span>{_Cells(about, path).cut(0, 0, columns)}")
    about, path = next(iter(chosen[-1].samples.values()))
    if "original" in about["rows"]:
        row, columns = about["rows"].index("original"), min(STRIP_IMAGES, len(about["prompts"]))
        strips.append(f"<span>original</span>{_Cells(about, path).cut(row, 0, columns)}")
    return _section("Progress", f"<div class=progress>{''.join(strips)}</div>", "the first samples, by step")


def _time(rows: Sequence[Mapping[str, Any]]) -> str:
    """The wall-clock time by activity, over all restarts."""
    if not rows:
        return ""
    spent = {name: rows[-1].get(name) for name in KINDS_OF_TIME}
    seconds = {name: float(value) for name, value in spent.items() if isinstance(value, (int, float))}
    total = sum(seconds.values())
    if not total:
        return ""
    body = "".join(
        f"<tr><td>{html.escape(KINDS_OF_TIME[name])}</td><td>{100 * value / total:.1f}%</td>"
        f"<td>{datetime.timedelta(seconds=round(value))}</td></tr>"
        for name, value in seconds.items()
    )
    table = f"<div class=table><table><tbody>{body}</tbody></table></div>"
    return _section("Time", table, f"{datetime.timedelta(seconds=round(total))} in all")


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{html.escape(title)}</summary><pre>{html.escape(text)}</pre></details>" if text else ""
