"""The report of a workdir: metrics, curves and images in one HTML file without network."""

import base64
import datetime
import html
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from mmjax.config.data_fields import attributions
from mmjax.files import check_regular, finite, read_lines, read_object, write_file
from mmjax.sample.video import timed_gif, to_png
from mmjax.types import UserError

PIXELATED_BELOW = 128  # smaller images are upscaled without interpolation
STRIPS, STRIP_IMAGES = 12, 8
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
STYLE = """
:root { color-scheme: light dark; }
body { max-width: 1120px; margin: auto; padding: 24px; font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h2 { margin: 40px 0 12px; }
h2 small { font-weight: normal; margin-left: 8px; }
table { border-collapse: collapse; }
th, td { padding: 4px 24px 4px 0; text-align: right; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
tr + tr { border-top: 1px solid #8888; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 14px; }
svg, img { display: block; width: 100%; height: auto; }
svg text { fill: currentColor; }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(var(--card-width), 1fr)); gap: 20px 16px; }
.pair { display: flex; gap: 4px; font-size: 12px; }
.pair div { flex: 1; min-width: 0; max-width: 288px; }
.samples p { margin: 4px 0 0; }
img.pixels { image-rendering: pixelated; }
.progress { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 4px 12px; max-width: 800px; }
details { margin-top: 24px; }
pre { overflow-x: auto; }
"""


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """The metrics of one evaluation, None where not finite, and the files of its samples by name."""

    step: int
    metrics: dict[str, float | None]
    samples: dict[str, tuple[dict[str, Any], Path]]


def write_report(workdir: Path) -> Path:
    """Writes WORKDIR/report.html, and returns its path.

    Works at any time of a run: what is missing, incomplete or damaged is left out.

    Raises:
        UserError: if there is no such folder, or the report cannot be written.
    """
    if not workdir.is_dir():
        raise UserError(f"{workdir}: no such folder; name the --workdir of a training")
    about = read_object(workdir / "config.json")
    config, versions = (found if isinstance(found := about.get(name), dict) else {} for name in ("config", "versions"))
    title = html.escape(str(config.get("name") or "") or workdir.resolve().name)
    lines = list(read_lines(workdir / "metrics.jsonl"))
    metrics = [row for row in lines if row.get("split") != "time"]
    evaluations = read_evaluations(workdir / "evaluation")
    steps = [row["step"] for row in metrics if isinstance(row.get("step"), int)] + [e.step for e in evaluations]
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    parts = [
        f"<h1>{title}</h1>",
        f"<p>{html.escape(str(workdir))} · " + (f"step {max(steps):,}" if steps else "no step logged yet") + "</p>",
        _part(_metrics, evaluations, config.get("train", {}).get("best_metric", "-loss")),
        _part(_curves, metrics, list(config.get("losses", {}))),
        _part(_samples, evaluations),
        _part(_progress, evaluations),
        _part(_time, [row for row in lines if row.get("split") == "time"]),
        _folded("Config", json.dumps(config, indent=2, ensure_ascii=False) if config else ""),
        _folded("Versions", "\n".join(f"{package} {version}" for package, version in versions.items())),
        _part(_attributions, config),
        f"<p>Written {now} by mmjax {html.escape(str(versions.get('mmjax', '')))}</p>",
    ]
    content = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title} · mmjax</title><style>{STYLE}</style></head>\n<body>{chr(10).join(parts)}</body></html>\n"
    )
    path = workdir / "report.html"
    write_file(path, content.encode())
    return path


def _part(section: Callable[..., str], *arguments: Any) -> str:
    """A section; empty, with a warning, where its files hold what cannot be drawn: a report stops no training."""
    try:
        return section(*arguments)
    except Exception as error:
        logger.warning("report.html: %s are left out: %s", section.__name__.strip("_"), " ".join(str(error).split()))
        return ""


def read_evaluations(folder: Path) -> list[Evaluation]:
    """The evaluations of a workdir by step."""
    found = []
    for path in folder.glob("*.json"):
        if path.stem.isdecimal():
            numbers = {k: v for k, v in read_object(path).items() if v is None or finite(v)}
            samples = {}
            for described in sorted(folder.glob(f"{path.stem}.*.json")):
                about = read_object(described)
                image = described.with_suffix(".gif" if "frames" in about else ".png")
                if about and _is_sheet(about, image):
                    samples[described.stem.partition(".")[2]] = about, image
            found.append(Evaluation(int(path.stem), numbers, samples))
    return sorted(found, key=lambda evaluation: evaluation.step)


def _is_sheet(about: Mapping[str, Any], path: Path) -> bool:
    """Whether a file of samples is complete, and of the size that its description tells."""
    try:
        height, width = about["cell"]
        prompts, rows = about["prompts"], about["rows"]
        if not all(isinstance(text, str) for text in (*prompts, *rows)):
            raise TypeError("prompts and rows must be texts")
        check_regular(path)
        with Image.open(path) as image:
            if image.size != (width * len(prompts), height * len(rows)):
                raise ValueError(f"{image.width} x {image.height} pixels are not those of its cells")
            for frame in ImageSequence.Iterator(image):
                frame.load()
    except FileNotFoundError:
        return False
    except Exception as error:  # Pillow may raise anything for a broken file
        logger.warning("%s: is damaged and left out: %s", path, " ".join(str(error).split()))
        return False
    return True


def best_evaluation(evaluations: Sequence[Evaluation], best: str) -> Evaluation | None:
    """The evaluation with the largest metric `best`, or the smallest with "-" before its name; of ties, the last."""
    name, sign = best.removeprefix("-"), -1 if best.startswith("-") else 1
    measured = [(sign * value, e.step) for e in evaluations if (value := e.metrics.get(name)) is not None]
    return next((e for e in evaluations if measured and e.step == max(measured)[1]), None)


def _attributions(config: Mapping[str, Any]) -> str:
    """Whom the sources of the data want to be named."""
    data = config.get("data", {})
    sources = [data.get("source"), *(part.get("source") for part in data.get("mixture", {}).values())]
    return "".join(f"<p>Training data: {html.escape(text)}</p>" for text in attributions(filter(None, sources)))


def _section(title: str, content: str, note: str = "") -> str:
    small = f"<small>{html.escape(note)}</small>" if note else ""
    return f"<h2>{html.escape(title)}{small}</h2>\n{content}"


def _table(rows: Iterable[Iterable[str]]) -> str:
    cells = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows)
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary><pre>{html.escape(text)}</pre></details>" if text else ""


def _metrics(evaluations: Sequence[Evaluation], best_metric: str) -> str:
    if not evaluations:
        return _section("Metrics", "<p>No evaluation yet.</p>")
    last, best = evaluations[-1], best_evaluation(evaluations, best_metric)
    columns = {"last": last} | ({"best": best} if best and best is not last else {})
    rows = [["", *(f"{title}, step {evaluation.step:,}" for title, evaluation in columns.items())]]
    for name in dict.fromkeys(name for evaluation in columns.values() for name in evaluation.metrics):
        label = f"{name} ({UNITS[name]})" if name in UNITS else name
        rows.append([label, *(_number(e.metrics[name]) if name in e.metrics else "–" for e in columns.values())])
    note = "the last evaluation is also the best" if best is last and len(evaluations) > 1 else ""
    return _section("Metrics", _table(rows), note)


def _number(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "not finite"
    return f"{value:.4g}" if abs(value) < 1 else f"{value:,.2f}"


def _curves(metrics: Iterable[Mapping[str, Any]], terms: Sequence[str]) -> str:
    from mmjax.evaluate import curves  # here, since matplotlib is slow to import

    drawn = "".join(f"<div>{curves.to_svg(*chart)}</div>" for chart in curves.charts(metrics, terms).items())
    return _section("Curves", f"<div class=charts>{drawn}</div>" if drawn else "<p>Nothing logged yet.</p>")


class _Cells:
    """Cuts single images out of a file of samples."""

    def __init__(self, about: Mapping[str, Any], path: Path):
        self.height, self.width = about["cell"]
        self.kind = path.suffix[1:]
        with Image.open(path) as image:
            frames = [(frame.convert("RGB"), frame.info.get("duration", 0)) for frame in ImageSequence.Iterator(image)]
        self.frames = np.stack([np.asarray(frame) for frame, _ in frames])
        self.durations = [duration for _, duration in frames]

    def cut(self, row: int, column: int, columns: int = 1) -> str:
        """An <img> of `columns` adjacent images in a row."""
        rows = slice(row * self.height, (row + 1) * self.height)
        across = slice(column * self.width, (column + columns) * self.width)
        frames = self.frames[:, rows, across]
        data = base64.b64encode(timed_gif(frames, self.durations) if self.kind == "gif" else to_png(frames[0])).decode()
        sharp = " class=pixels" if max(self.height, self.width) < PIXELATED_BELOW else ""
        size = f"width={frames.shape[2]} height={frames.shape[1]}"
        return f'<img{sharp} alt="" {size} src="data:image/{self.kind};base64,{data}">'


def _samples(evaluations: Sequence[Evaluation]) -> str:
    latest = next((e for e in reversed(evaluations) if e.samples), None)
    if latest is None:
        return _section("Samples", "<p>No samples yet.</p>")
    sections = []
    for name, (about, path) in latest.samples.items():
        cells, cards = _Cells(about, path), []
        for column, prompt in enumerate(about["prompts"]):
            images = (f"<div>{cells.cut(i, column)}{html.escape(row)}</div>" for i, row in enumerate(about["rows"]))
            cards.append(f"<div><div class=pair>{''.join(images)}</div><p>{html.escape(prompt)}</p></div>")
        width = f"min(100%, {min(max(cells.width, 112), 288) * len(about['rows'])}px)"
        content = f'<div class=samples style="--card-width: {width}">{"".join(cards)}</div>'
        title = "Samples" if name == "samples" else f"Samples: {name}"
        sections.append(_section(title, content, f"step {latest.step:,}"))
    return "\n".join(sections)


def _progress(evaluations: Sequence[Evaluation]) -> str:
    """The first row of samples of up to twelve evaluations at equal distances."""
    drawn = [e for e in evaluations if e.samples]
    if len(drawn) < 2:
        return ""
    places = np.linspace(0, len(drawn) - 1, min(STRIPS, len(drawn)))
    shown = [(f"{e.step:,}", 0, next(iter(e.samples.values()))) for e in (drawn[round(place)] for place in places)]
    about, path = shown[-1][2]
    if "original" in about["rows"]:
        shown.append(("original", about["rows"].index("original"), (about, path)))
    strips = [f"<span>{label}</span>{_Cells(*files).cut(row, 0, STRIP_IMAGES)}" for label, row, files in shown]
    return _section("Progress", f"<div class=progress>{''.join(strips)}</div>", "the first samples, by step")


def _time(rows: Sequence[Mapping[str, Any]]) -> str:
    """The wall-clock time by activity, over all restarts."""
    spent = {name: rows[-1].get(name) for name in KINDS_OF_TIME} if rows else {}
    seconds = {name: float(value) for name, value in spent.items() if finite(value)}
    total = sum(seconds.values())
    if not total:
        return ""
    table = _table(
        (KINDS_OF_TIME[name], f"{100 * value / total:.1f}%", str(datetime.timedelta(seconds=round(value))))
        for name, value in seconds.items()
    )
    return _section("Time", table, f"{datetime.timedelta(seconds=round(total))} in all")
