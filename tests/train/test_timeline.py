"""Time accounting over several restarts."""

import jax
import pytest

from mmjax.train import timeline
from mmjax.train.timeline import COMPILING, Timeline


class Clock:
    """Both clocks of the time module, a thousand seconds apart."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + 1000.0


@pytest.fixture(name="clock")
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timeline, "time", clock)
    return clock


def test_every_second_belongs_to_one_kind(clock: Clock) -> None:
    line = Timeline(1095.0)
    clock.now += 2
    line.enter("data")
    clock.now += 3
    line.enter("steps")
    clock.now += 7
    with line.during("checkpoint"):
        clock.now += 1
    jax.monitoring.record_event_duration_secs(COMPILING, 4.0)
    metrics = line.metrics(stopped=True)
    assert metrics == {"goodput": 0.1667, "steps": 3, "start": 7, "compile": 4, "data": 3, "evaluation": 0,
                       "checkpoint": 1, "lost": 0, "at": 1113, "stopped": 1}  # fmt: skip
    line.close()
    jax.monitoring.record_event_duration_secs(COMPILING, 4.0)
    assert line.metrics()["compile"] == 4


def test_time_since_the_last_checkpoint_is_lost(clock: Clock) -> None:
    rows = [{"step": 0, "split": "time", "steps": 0.0, "start": 4.0, "at": 1004.0},
            {"step": 10, "split": "train", "loss": 1.0},
            {"step": 10, "split": "time", "steps": 20.0, "start": 4.0, "at": 1024.0},
            {"step": 15, "split": "time", "steps": 30.0, "start": 4.0, "at": 1034.0}]  # fmt: skip
    line = Timeline(1095.0)
    line.resume(rows, 10)
    metrics = line.metrics()
    assert (metrics["steps"], metrics["start"], metrics["lost"]) == (20, 4 + 5, 1095 - 1024)
    line.close()


def test_time_after_a_planned_stop_is_not_lost(clock: Clock) -> None:
    line = Timeline(1095.0)
    line.resume([{"step": 10, "split": "time", "steps": 20.0, "at": 1024.0, "stopped": 1.0}], 10)
    assert line.metrics()["lost"] == 0
    line.close()


def test_median_step_excludes_other_activities(clock: Clock) -> None:
    line = Timeline(1095.0)
    for step in range(1, 6):
        line.enter("data")
        clock.now += 1
        line.enter("steps")
        clock.now += 2
        with line.during("evaluation"):
            clock.now += 50
        line.step_done(step)
        assert line.median_step() == (None if step < 4 else 3.0)
    line.close()


def test_process_start() -> None:
    import time

    assert 0 < time.time() - timeline.process_start() < 3600
