import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from mmjax.evaluate import curves

METRICS = [
    {"step": 20, "split": "train", "loss": 0.5, "mean_squared_error": 0.5, "learning_rate": 1e-3, "skipped_steps": 0},
    {"step": 10, "split": "train", "loss": 0.9, "mean_squared_error": 0.9, "learning_rate": 1e-3, "skipped_steps": 0},
    {
        "step": 20,
        "split": "evaluation",
        "loss": 0.6,
        "mean_squared_error": 0.6,
        "scenes/all": 0.3,
        "reconstruction/psnr": 17.0,
        "scenes/diversity": 3.0,
    },
    {"step": 20, "split": "train", "loss": None, "mean_squared_error": None, "learning_rate": 2e-3, "skipped_steps": 0},
    {"step": "x", "loss": 7},
    {"loss": 7},
    {"step": 30, "split": "train", "note": "text", "loss": {}},
]


def test_groups() -> None:
    charts = curves.charts(METRICS, ["mean_squared_error"])
    found = {chart.title: [(series.name, series.split) for series in chart.series] for chart in charts}
    assert found == {
        "loss": [("loss", "train"), ("loss", "evaluation")],
        "scenes/all": [("scenes/all", "evaluation")],
        "learning_rate": [("learning_rate", "train")],
        "reconstruction/psnr": [("reconstruction/psnr", "evaluation")],
        "scenes/diversity": [("scenes/diversity", "evaluation")],
    }


def test_metrics_of_clips_are_accuracies() -> None:
    row = {"step": 1, "split": "evaluation", "scenes/motion": 0.5, "scenes/consistency": 0.25, "scenes/all": 0.125}
    (chart,) = curves.charts([row], [])
    assert chart.title == "accuracies" and len(chart.series) == 3


def test_chart_of_one_metric_has_its_name() -> None:
    rows = [{"step": 1, "split": "evaluation", "scenes/all": 0.5, "scenes/shape": 0.25}]
    assert [chart.title for chart in curves.charts(rows, [])] == ["accuracies"]
    (chart,) = curves.charts([{"step": step, "split": "evaluation", "scenes/all": 0.5} for step in (1, 2)], [])
    assert chart.title == "scenes/all" and ">1.0<" in curves.to_html(chart)  # from 0 to 1, whatever its title
    (chart,) = curves.charts([{"step": 1, "split": split, "loss": 0.5} for split in ("train", "evaluation")], [])
    assert chart.title == "loss"


def test_terms_are_shown_with_the_loss() -> None:
    rows = [{"step": 1, "split": "train", "loss": 3.0, "a": 1.0, "b": 2.0}]
    (chart,) = curves.charts(rows, ["a", "b"])
    assert [series.name for series in chart.series] == ["loss", "a", "b"]


def test_later_lines_replace_and_null_is_a_gap() -> None:
    chart = curves.charts(METRICS, ["mean_squared_error"])[0]
    assert chart.series[0].points[10] == 0.9 and math.isnan(chart.series[0].points[20])


def test_no_charts() -> None:
    assert curves.charts([], []) == []
    assert curves.charts([{"step": 1, "split": "train", "loss": None}], []) == []


def test_long_runs_are_averaged() -> None:
    steps, values = curves._thinned({step: float(step) for step in range(100_003)})
    assert len(steps) <= curves.MAX_POINTS
    assert steps == sorted(steps) and steps[-1] == 100_002
    assert np.mean(values[:-1]) == pytest.approx(np.mean(range(steps[-2] + 1)))
    assert curves._thinned({3: 1.0, 1: 2.0}) == ([1, 3], [2.0, 1.0])


@pytest.mark.parametrize(
    ("value", "text"),
    [(1500.0, "1500"), (2e4, "20k"), (3e6, "3M"), (2.5e9, "2.5G"), (-2e4, "-20k"), (0.25, "0.25"), (0.0, "0")],
)
def test_tick_labels(value: float, text: str) -> None:
    assert curves._short(value) == text


def test_svg_is_well_formed_uses_css_colors_and_escapes_names() -> None:
    rows = [
        {"step": step, "split": split, "<b>&": value}
        for split in ("train", "evaluation<i>")
        for step, value in ((1, 0.001), (2, 5.0))
    ]
    (chart,) = curves.charts(rows, [])
    text = curves.to_html(chart)
    root = ElementTree.fromstring(text)
    assert root.findtext("figcaption") == "<b>&"
    assert "var(--color-0)" in text and "var(--color-1)" in text and "#0a0b" not in text and "#010203" not in text
    assert "<i>" not in text.replace("<i style", "")
    assert curves.to_html(chart) == text  # the same metrics give the same file


def test_wide_losses_have_a_logarithmic_axis() -> None:
    rows = [{"step": step, "split": "train", "loss": 10.0**-step} for step in range(5)]
    assert ">0.01<" in curves.to_html(curves.charts(rows, [])[0])
