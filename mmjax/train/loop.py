"""The training loop."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax

from mmjax.parallel import processes
from mmjax.train.state import State
from mmjax.train.timeline import Timeline
from mmjax.types import Batch, UserError

Compiled = Callable[[State, Any], tuple[State, dict[str, jax.Array]]]


def train(
    state: State,
    step_fn: Compiled,
    batches: Iterator[Batch],
    put: Callable[[Batch], Any],
    last: int,
    after: Callable[[State, int], None],
    log: Callable[[int, dict[str, float]], None],
    stop: Callable[[int], bool],
    timeline: Timeline,
) -> State:
    """Runs training steps until `last` are done or `stop` says so, and returns the state.

    Args:
        step_fn: the compiled step; it may donate the state.
        batches: the batches from this state's step on.
        put: places a batch on the devices.
        last: the number of the last step.
        after: called with the state after each step, before the next batch is drawn, to evaluate and save.
        log: called with the metrics of each step, and the seconds spent waiting for data ("wait") and copying the batch
            to the devices ("transfer"); one step late, so that the devices are never idle for it.
        stop: called with the number of steps done before each step.
        timeline: accounts the time.
    """

    def fetch(step: int, metrics: Any, waited: float, sent: float) -> None:
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        log(step, values | {"wait": waited, "transfer": sent})

    done = int(state.step)
    late: tuple[int, Any, float, float] | None = None
    while done < last and not stop(done):
        begin = time.perf_counter()
        timeline.enter("data")
        batch = next(batches)
        timeline.enter("steps" if late else "compile")
        waited = time.perf_counter() - begin
        begin = time.perf_counter()
        placed = put(batch)
        sent = time.perf_counter() - begin
        with jax.transfer_guard("disallow"):
            state, metrics = step_fn(state, placed)
        timeline.enter("steps")
        done += 1
        if late:
            fetch(*late)
        late = (done, metrics, waited, sent)
        after(state, done)
        timeline.step_done(done)
    if late:
        fetch(*late)
    return state


def check_finite(metrics: Mapping[str, float], step: int, limit: int, spikes: bool = False) -> None:
    """Raises UserError after `limit` consecutive skipped steps: not finite or, where those are skipped too, spikes."""
    if metrics["nonfinite_steps"] >= limit:
        spike = ", or the gradient was a spike (train.skip_grad_spikes)," if spikes else ""
        raise UserError(
            f"step {step}: the loss, gradient or update was not finite{spike} for {limit} consecutive steps "
            "(train.max_nonfinite_steps); try a smaller optimizer.learning_rate, or optimizer.grad_clip_norm=1.0, in "
            "another --workdir"
        )


class Stopped(Exception):
    """Raised between two steps when the training is to stop."""


@dataclass
class Stop:
    """Whether to stop, asked at every step; all processes agree on the answer.

    Attributes:
        signal: the signal that this process received, 0 for none.
        reached: whether the answer was yes.
    """

    signal: int = 0
    reached: bool = False

    def __call__(self, step: int) -> bool:
        self.reached |= processes.preempted() if processes.is_multiprocess() else bool(self.signal)
        return self.reached

    def before(self, function: Callable[..., Any], step: int) -> Callable[..., Any]:
        """Wraps a function to raise Stopped at the first call at which to stop; all processes must call it alike."""

        def wrapped(*arguments: Any) -> Any:
            if self(step):
                raise Stopped
            return function(*arguments)

        return wrapped

    @property
    def status(self) -> int:
        """The exit status of a run stopped by a signal, 128 + signal, else 0."""
        return 128 + (self.signal or signal.SIGTERM) if self.reached else 0


def exit_status(status: int) -> int:
    """The command's exit status: SIGTERM, which saves and stops, is no failure, but Ctrl-C is to end scripts too."""
    return processes.stopped_status() if status == 128 + signal.SIGTERM else status


def _tell(text: str) -> None:
    """Writes a line to stderr, below the progress bar where there is one; in a signal handler, so unbuffered."""
    with contextlib.suppress(OSError):
        os.write(2, f"{chr(10) if os.isatty(2) else ''}{text}\n".encode())


@contextmanager
def interrupted() -> Iterator[Stop]:
    """Handles Ctrl-C and SIGTERM in the block: the first stops after this step, another Ctrl-C exits immediately."""
    stop = Stop()

    def note(number: int, frame: Any) -> None:
        stop.signal = number
        if number == signal.SIGTERM:
            _tell("stopping after this step")
            return
        if processes.is_primary():
            _tell("stopping after this step; press Ctrl-C again to exit immediately, without saving")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if processes.is_multiprocess():
            os.kill(os.getpid(), signal.SIGTERM)  # JAX's handler, which tells the other processes

    # With several processes, JAX handles SIGTERM.
    numbers = [signal.SIGINT] if processes.is_multiprocess() else [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
