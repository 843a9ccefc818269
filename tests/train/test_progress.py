"""What is logged of the input, and when it is warned of."""

import logging

import pytest

from mmjax.config import TrainConfig
from mmjax.train import progress
from mmjax.train.metrics import Metrics
from mmjax.train.timeline import Timeline
from mmjax.types import InputStats


class Clock:
    """A step takes a second, of which it waits so long, and the first one a minute."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


def steps(
    monkeypatch: pytest.MonkeyPatch, count: int, wait: float, sent: float, spent: dict[str, float]
) -> list[dict[str, float]]:
    written: list[dict[str, float]] = []
    clock, feed = Clock(), InputStats()
    monkeypatch.setattr(progress, "time", clock)
    metrics = Metrics.__new__(Metrics)
    monkeypatch.setattr(metrics, "write", lambda step, split, metrics: written.append(metrics), raising=False)
    shown = progress.Progress(TrainConfig(batch=4, log_every=5), metrics, 0, count, count, feed, Timeline(0.0))
    monkeypatch.setattr(metrics, "write_time", lambda step, metrics: None, raising=False)
    for step in range(1, count + 1):
        clock.now += 60 if step == 1 else 1
        feed.ready = step % 2
        for name, seconds in spent.items():
            feed.spend(name, seconds)
        shown.log(step, {"loss": 1.0, "nonfinite_steps": 0.0, "examples": 3.0, "wait": wait, "transfer": sent})
    shown.close()
    shown.timeline.close()
    return written


def test_the_input_is_in_the_metrics(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    first, second = steps(monkeypatch, 10, 0.125, 0.0, {"reading": 0.9})
    assert first["data_wait_fraction"] == second["data_wait_fraction"] == 0.125
    assert first["examples_per_second"] == second["examples_per_second"] == 4.0
    assert (first["batches_ready"], second["batches_ready"]) == (0.6, 0.4)
    assert first["corrupt_examples"] == 5.0 and not {"wait", "transfer", "ready"} & first.keys()
    assert not caplog.records


@pytest.mark.parametrize(("wait", "sent", "slow"), [
    (0.5, 0.0, "preparing images"), (0.1, 0.3, "handing batches to the devices")
])  # fmt: skip
def test_a_slow_input_is_told_once_and_what_of_it_is_slow(
    wait: float, sent: float, slow: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        steps(monkeypatch, 20, wait, sent, {"reading": 0.2, "preparing images": 0.6, "tokenizing": 0.1})
    share = f"{100 * (wait + sent):.0f}%"
    assert [record.getMessage() for record in caplog.records] == [
        f"step 15: the input is the bottleneck: the steps waited for it {share} of the time; what is slow is {slow}"
    ]


def test_that_nothing_is_ready_at_first_is_no_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    steps(monkeypatch, 5, 0.9, 0.0, {"reading": 0.9})
    assert not caplog.records
