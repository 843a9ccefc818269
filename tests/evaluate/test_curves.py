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
    found = {title: list(series) for title, series in curves.charts(METRICS, ["mean_squared_error"]).items()}
    assert found == {
        "loss": [("loss", "train"), ("loss", "evaluation")],
        "scenes/all": [("scenes/all", "evaluation")],
        "learning_rate": [("learning_rate", "train")],
        "reconstruction/psnr": [("reconstruction/psnr", "evaluation")],
        "scenes/diversity": [("scenes/diversity", "evaluation")],
    }


def test_metrics_of_clips_are_accuracies() -> None:
    row = {"step": 1, "split": "evaluation", "scenes/motion": 0.5, "scenes/consistency": 0.25, "scenes/all": 0.125}
    charts = curves.charts([row], [])
    assert list(charts) == ["accuracies"] and len(charts["accuracies"]) == 3


def test_chart_of_one_metric_has_its_name() -> None:
    rows = [{"step": 1, "split": "evaluation", "scenes/all": 0.5, "scenes/shape": 0.25}]
    assert list(curves.charts(rows, [])) == ["accuracies"]
    charts = curves.charts([{"step": step, "split": "evaluation", "scenes/all": 0.5} for step in (1, 2)], [])
    assert list(charts) == ["scenes/all"]
    assert ">1<" in curves.to_svg("scenes/all", charts["scenes/all"])  # from 0 to 1, whatever its title
    assert list(curves.charts([{"step": 1, "split": split, "loss": 0.5} for split in ("train", "evaluation")], [])) == [
        "loss"
    ]


def test_terms_are_shown_with_the_loss() -> None:
    rows = [{"step": 1, "split": "train", "loss": 3.0, "a": 1.0, "b": 2.0}]
    charts = curves.charts(rows, ["a", "b"])
    assert list(charts) == ["loss"] and [name for name, _ in charts["loss"]] == ["loss", "a", "b"]
    assert [name for name, _ in curves.charts(rows, ["a"])["loss"]] == ["loss"]


def test_later_lines_replace_and_null_is_a_gap() -> None:
    points = curves.charts(METRICS, ["mean_squared_error"])["loss"]["loss", "train"]
    assert points[10] == 0.9 and math.isnan(points[20])


def test_no_charts() -> None:
    assert curves.charts([], []) == {}
    assert curves.charts([{"step": 1, "split": "train", "loss": None}], []) == {}


def test_long_runs_are_averaged() -> None:
    steps, values = curves.thinned({step: float(step) for step in range(100_003)})
    assert len(steps) <= curves.MAX_POINTS
    assert steps == sorted(steps) and steps[-1] == 100_002
    assert np.mean(values[:200]) == pytest.approx(np.mean(range(steps[199] + 1)), rel=1e-3)
    assert curves.thinned({3: 1.0, 1: 2.0}) == ([1, 3], [2.0, 1.0])


def test_tick_labels() -> None:
    text = curves.to_svg("loss", {("loss", "train"): {0: 0.25, 20_000: 0.5}})
    assert ">20,000<" in text and ">0.25<" in text
    few = curves.to_svg("loss", {("loss", "train"): {1: 0.25, 2: 0.5, 3: 0.75}})
    assert [few.count(f">{step}<") for step in (1, 2, 3)] == [1, 1, 1]


def test_svg_is_well_formed_follows_light_and_dark_mode_and_escapes_names() -> None:
    rows = [
        {"step": step, "split": split, "<b>&$x$": value}
        for split in ("train", "evaluation<i>")
        for step, value in ((1, 0.001), (2, 5.0))
    ]
    (chart,) = curves.charts(rows, []).items()
    text = curves.to_svg(*chart)
    root = ElementTree.fromstring(text)
    shown = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"<b>&$x$", "train", "evaluation<i>"} <= set(shown)
    assert "currentColor" in text and "#000000" not in text
    assert curves.to_svg(*chart) == text  # the same metrics give the same file


def test_wide_losses_have_a_logarithmic_axis() -> None:
    rows = [{"step": step, "split": "train", "loss": 10.0**-step} for step in range(5)]
    assert ">0.01<" in curves.to_svg("loss", curves.charts(rows, [])["loss"])
