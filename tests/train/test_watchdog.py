"""The watchdog reports hangs, and only hangs."""

import time

import pytest

from mmjax.train.timeline import Timeline, watching


def stand_still(line: Timeline, seconds: float) -> None:
    line.enter("steps")
    time.sleep(seconds)


@pytest.fixture(name="line")
def known_steps() -> Timeline:
    line = Timeline(time.time())
    line.steps.extend([0.01] * 5)
    line.step = 12
    line.close()
    return line


def test_hang_is_reported_once_with_its_stack(line: Timeline, capfd: pytest.CaptureFixture[str]) -> None:
    with watching(line, least=0.2, poll=0.05):
        stand_still(line, 0.6)
    told = capfd.readouterr().err
    assert told.startswith("\nmmjax: training hangs after step 12 for 0 s (usually 0.01 s), waiting for the")
    assert "in stand_still" in told and told.rstrip().endswith("time.sleep(seconds)")
    assert told.count("hangs") == 1


def test_progress_is_not_reported(line: Timeline, capfd: pytest.CaptureFixture[str]) -> None:
    with watching(line, least=0.3, poll=0.02):
        for _ in range(10):
            stand_still(line, 0.05)
        with line.during("evaluation"):  # which may take ten times as long as a step
            time.sleep(0.4)
    assert capfd.readouterr().err == ""
