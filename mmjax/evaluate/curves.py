"""Metrics over steps, as inline SVG for the report."""

import html
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

MAX_POINTS = 800
LOSS, ACCURACY = "loss", "accuracies"
COLORS = 8  # the page defines --color-0 to --color-7
ACCURACIES = (
    "scenes/",
    "vqa/",
    "retrieval/",
    "captions/",
    "classification/",
    "zero_shot/",
    "reconstruction/ssim",
    "tokenizer/code_usage",
)
NO_ACCURACIES = ("scenes/diversity", "captions/cider")  # may exceed 1

# Placeholder colors for matplotlib, replaced by the page's CSS variables, so that curves follow light and dark mode.
_INK, _LINE = "#010203", "#040506"
_STAND_INS = {_INK: "currentColor", _LINE: "var(--line)"}
_STAND_INS |= {f"#0a0b{i:02x}": f"var(--color-{i})" for i in range(COLORS)}


@dataclass
class Series:
    """A metric of one split: values by step, NaN where not finite."""

    name: str
    split: str
    points: dict[int, float] = field(default_factory=dict)


@dataclass
class Chart:
    """Series on common axes.

    The y axis is 0 to 1 for accuracies, and logarithmic for losses of a wide range. `group` is LOSS, ACCURACY or the
    name of another metric; it is the title if there are several series.
    """

    group: str
    series: list[Series]

    @property
    def title(self) -> str:
        names = {series.name for series in self.series}
        return names.pop() if len(names) == 1 else self.group


def charts(metrics: Iterable[Mapping[str, Any]], terms: Sequence[str]) -> list[Chart]:
    """Groups the metrics of metrics.jsonl: losses, accuracies, and each other metric by itself.

    Args:
        metrics: the lines; a later line of the same step and split replaces an earlier one's values.
        terms: names of the loss terms.
    """
    found: dict[tuple[str, str], Series] = {}
    for row in metrics:
        step, split = row.get("step"), str(row.get("split", ""))
        if not isinstance(step, int):
            continue
        for name, value in row.items():
            if name in ("step", "split") or not (value is None or isinstance(value, (int, float))):
                continue
            series = found.setdefault((name, split), Series(name, split))
            series.points[step] = math.nan if value is None else float(value)
    every = [series for series in found.values() if any(map(math.isfinite, series.points.values()))]

    def group(name: str, belongs: Callable[[str], bool]) -> Chart:
        return Chart(name, [series for series in every if belongs(series.name)])

    # A single term of weight 1 equals the loss, and needs no curve of its own.
    is_loss = {"loss", *(term for term in terms if not _equals_loss(term, found))}
    repeated = set(terms) - is_loss
    others = sorted({s.name for s in every} - is_loss - repeated - {s.name for s in every if _is_accuracy(s.name)})
    grouped = [group(LOSS, is_loss.__contains__), group(ACCURACY, _is_accuracy)]
    singles = [group(name, name.__eq__) for name in others]
    # Metrics that are always 0, such as skipped steps, are left out.
    return [c for c in grouped if c.series] + [c for c in singles if any(any(s.points.values()) for s in c.series)]


def _is_accuracy(name: str) -> bool:
    return name.startswith(ACCURACIES) and not name.startswith(NO_ACCURACIES)


def _equals_loss(term: str, found: Mapping[tuple[str, str], Series]) -> bool:
    splits = [split for name, split in found if name == term]
    return bool(splits) and all(
        (loss := found.get(("loss", split))) and _alike(loss.points, found[term, split].points) for split in splits
    )


def _alike(a: Mapping[int, float], b: Mapping[int, float]) -> bool:
    return a.keys() == b.keys() and all(
        math.isclose(a[step], b[step], rel_tol=1e-5) or (math.isnan(a[step]) and math.isnan(b[step])) for step in a
    )


def to_html(chart: Chart) -> str:
    """The chart as a <figure> with title, SVG and legend."""
    names = list(dict.fromkeys(series.name for series in chart.series))
    splits = list(dict.fromkeys(series.split for series in chart.series))
    # Colors are by name or, if there is only one name, by split.
    by_split = len(names) == 1
    keys = splits if by_split else names
    color = {key: i % COLORS for i, key in enumerate(keys)}
    colors = [color[series.split if by_split else series.name] for series in chart.series]
    legend = "".join(
        f'<span><i style="background:var(--color-{color[key]})"></i>{html.escape(key)}</span>' for key in keys
    )
    if not by_split and len(splits) > 1:
        legend += "<span>thin: train</span>"
    return (
        f'<figure class="chart"><figcaption>{html.escape(chart.title)}</figcaption>'
        f'{_svg(chart, colors)}<div class="legend">{legend}</div></figure>'
    )


def _svg(chart: Chart, colors: Sequence[int]) -> str:
    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": chart.title,
        "font.size": 11.5,
        "text.color": _INK,
        "xtick.color": _INK,
        "ytick.color": _INK,
        "axes.edgecolor": _LINE,
        "grid.color": _LINE,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(5.0, 2.5), layout="constrained", facecolor="none")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot(facecolor="none")
        for series, color in zip(chart.series, colors, strict=True):
            steps, values = _thinned(series.points)
            train = series.split == "train"
            axes.plot(
                steps,
                values,
                color=f"#0a0b{color:02x}",
                linewidth=1.0 if train else 1.8,
                alpha=0.65 if train and len(chart.series) > 1 else 1.0,
                marker="o" if len(steps) < 30 and not (train and len(steps) > 1) else "",
                markersize=3,
            )
        _style(axes, chart)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    for stand_in, wanted in _STAND_INS.items():
        svg = svg.replace(stand_in, wanted)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(chart.title)} over steps" ', 1)


def _style(axes: Axes, chart: Chart) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(_short))
    values = [v for series in chart.series for v in series.points.values() if math.isfinite(v)]
    if chart.group == ACCURACY:
        axes.set_ylim(-0.02, 1.02)
    elif chart.group == LOSS and min(values) > 0 and max(values) > 20 * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 3) if max(values) < 3e3 * min(values) else (1,)))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(_short))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(_short))


def _short(value: float, position: int | None = None) -> str:
    """Formats 1500 as 1500, 20000 as 20k, 0.00012 as 0.00012 and 0.0000012 as 1.2e-06."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 10 * size or (size > 1e3 and abs(value) >= size):
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def _thinned(points: Mapping[int, float]) -> tuple[list[int], list[float]]:
    """The steps in order and their values; more than MAX_POINTS are averaged over neighbors."""
    steps = sorted(points)
    width = math.ceil(len(steps) / MAX_POINTS)
    groups = [steps[i : i + width] for i in range(0, len(steps), max(width, 1))]
    return [group[-1] for group in groups], [sum(points[s] for s in group) / len(group) for group in groups]
