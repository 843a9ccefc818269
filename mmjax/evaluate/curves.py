"""Metrics over steps, as inline SVG for the report."""

import io
import math
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmjax.files import finite

MAX_POINTS = 800
LOSS, ACCURACY = "loss", "accuracies"
ACCURACIES = ("scenes/", "vqa/", "retrieval/", "captions/", "classification/", "zero_shot/", "reconstruction/ssim",
              "tokenizer/code_usage")  # fmt: skip
NO_ACCURACIES = ("scenes/diversity", "captions/cider")  # may exceed 1

Series = Mapping[tuple[str, str], Mapping[int, float]]  # by metric and split: values by step, NaN where not finite


def charts(metrics: Iterable[Mapping[str, Any]], terms: Collection[str]) -> dict[str, Series]:
    """Groups the metrics of metrics.jsonl by title: losses, accuracies, and each other metric by itself.

    A single loss term is the loss up to its weight, and needs no curve of its own.

    Args:
        metrics: the lines; a later line of the same step and split replaces an earlier one's values.
        terms: names of the loss terms.
    """
    found: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for row in metrics:
        step, split = row.get("step"), row.get("split")
        if not (isinstance(step, int) and isinstance(split, str) and re.match("[A-Za-z]", split)):
            continue  # a damaged line
        for name, value in row.items():
            if (value is None or finite(value)) and name not in ("step", "split"):
                found[name, split][step] = math.nan if value is None else float(value)
    drawn = {key: points for key, points in found.items() if any(map(math.isfinite, points.values()))}
    # Metrics that are always 0, such as skipped steps, are left out.
    changing = {name for (name, _), points in drawn.items() if any(points.values())}

    names = dict.fromkeys(name for name, _ in drawn)
    losses = [name for name in names if name == LOSS or (name in terms and len(terms) > 1)]
    accuracies = [name for name in names if _is_accuracy(name)]
    others = sorted(changing - {LOSS, *terms, *accuracies})
    grouped = {LOSS: losses, ACCURACY: accuracies, **{name: [name] for name in others}}
    return {
        group[0] if len(group) == 1 else title: {key: points for key, points in drawn.items() if key[0] in group}
        for title, group in grouped.items()
        if group
    }


def _is_accuracy(name: str) -> bool:
    return name.startswith(ACCURACIES) and not name.startswith(NO_ACCURACIES)


def to_svg(title: str, series: Series) -> str:
    """Draws a chart of `charts`; lines of training are thin.

    The y axis is 0 to 1 for accuracies, and logarithmic for losses of a wide range.
    """
    names = list(dict.fromkeys(name for name, _ in series))
    values = [value for points in series.values() for value in points.values() if math.isfinite(value)]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "text.parse_math": False}):
        figure = Figure(figsize=(5.0, 2.5 + 0.12 * len(series)), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title)
        for number, ((name, split), points) in enumerate(series.items()):
            train = split == "train"
            axes.plot(
                *thinned(points),
                label=f"{name} ({split})" if len(names) > 1 else split,
                color=f"C{names.index(name) if len(names) > 1 else number}",
                linewidth=1.0 if train else 1.8,
                alpha=0.65 if train else 1.0,
                marker="." if len(points) < 30 else "",
            )
        if title == ACCURACY or _is_accuracy(title):
            axes.set_ylim(-0.02, 1.02)
        elif title == LOSS and 0 < 20 * min(values) < max(values):
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter("")
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.grid(axis="y")
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Title": title, "Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace("#000000", "currentColor")  # follows light and dark mode


def thinned(points: Mapping[int, float]) -> tuple[list[int], list[float]]:
    """The steps in order and their values; more than MAX_POINTS are averaged over neighbors."""
    groups = np.array_split(sorted(points), min(len(points), MAX_POINTS))
    return [int(group[-1]) for group in groups], [sum(points[s] for s in group) / len(group) for group in groups]
