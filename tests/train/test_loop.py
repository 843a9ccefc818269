"""The training loop: the order of its calls, signals, and non-finite steps."""

import os
import signal

import numpy as np
import pytest

from mmjax.train import loop
from mmjax.train.state import State
from mmjax.train.timeline import Timeline
from mmjax.types import UserError


def state_at(step):
    return State(np.int32(step), {}, (), None, None, np.int32(0))


def run(start, last, stop=lambda step: False):
    calls = []
    timeline = Timeline(0.0)

    def draw():
        number = start
        while True:
            calls.append(("batch", number))
            yield {"number": number}
            number += 1

    def step(state, batch):
        return state.replace(step=np.int32(state.step + 1)), {"loss": batch["number"]}

    state = loop.train(state_at(start), step, draw(), lambda batch: batch, last,
                       lambda state, done: calls.append(("after", done)),
                       lambda step, metrics: calls.append(("log", step, metrics["loss"])), stop, timeline)  # fmt: skip
    timeline.close()
    assert timeline.step == int(state.step)
    return int(state.step), calls


def test_metrics_come_one_step_late_and_saving_precedes_the_next_batch():
    step, calls = run(3, 5)
    assert step == 5
    assert calls == [("batch", 3), ("after", 4), ("batch", 4), ("log", 4, 3.0), ("after", 5), ("log", 5, 4.0)]


def test_stops_when_asked():
    asked = []
    assert run(0, 9, lambda step: asked.append(step) or step == 2)[0] == 2
    assert asked == [0, 1, 2]


def test_second_ctrl_c_exits():
    with loop.interrupted() as stop:
        assert not stop(0) and stop.status == 0
        os.kill(os.getpid(), signal.SIGINT)
        assert stop(1) and stop.status == 130 == loop.exit_status(130)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_sigterm_exit_status():
    with loop.interrupted() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop(0) and stop.status == 143
    assert loop.exit_status(stop.status) == 0
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_too_many_nonfinite_steps_raise():
    loop.check_finite({"nonfinite_steps": 9.0}, 7, 10)
    with pytest.raises(UserError, match=r"step 7: .*10 consecutive steps"):
        loop.check_finite({"nonfinite_steps": 10.0}, 7, 10)
    with pytest.raises(UserError, match=r"train.skip_grad_spikes.* 10 consecutive steps"):
        loop.check_finite({"nonfinite_steps": 10.0}, 7, 10, True)
