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
    """Runs steps until `last` are done or `stop` says so, and returns the state.

    Args:
        step_fn: the compiled step; it may donate the state.
        batches: the batches from this state's step on.
        put: places a batch on the devices.
        after: is handed the state after each step, before the next batch is drawn, to evaluate and save it.
        log: is handed the metrics of a step, "wait", the seconds it waited for data, and "transfer", those that it took
            to hand its batch to the devices; one step late, so that the devices never wait for it.
        stop: is asked before each step, and told how many are done.
        timeline: is told what goes on.
    """
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
            _fetch(log, *late)
        late = (done, metrics, waited, sent)
        after(state, done)
        timeline.step_done(done)
    if late:
        _fetch(log, *late)
    return state


def _fetch(log: Callable[[int, dict[str, float]], None], step: int, metrics: Any, waited: float, sent: float) -> None:
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    log(step, values | {"wait": waited, "transfer": sent})


def check_finite(metrics: Mapping[str, float], step: int, limit: int, spikes: bool = False) -> None:
    """Raises UserError once `limit` steps in a row were skipped: not finite, or spikes where those are skipped too."""
    if metrics["nonfinite_steps"] >= limit:
        spike = " or, by train.skip_grad_spikes, a spike" if spikes else ""
        raise UserError(
            f"step {step}: the loss, its gradient or the update was not finite{spike} {limit} steps in a row "
            "(train.max_nonfinite_steps); try a smaller optimizer.learning_rate, or optimizer.grad_clip_norm=1.0, in another --workdir"
        )


class Stopped(Exception):
    """What goes on between two steps is to end, since the training is to stop."""


@dataclass
class Stop:
    """Says, asked at every step and batch, whether to stop there: the same in all processes, whichever was told to.

    Attributes:
        signal: that this process was sent, 0 for none.
        reached: whether it said yes.
    """

    signal: int = 0
    reached: bool = False

    def __call__(self, step: int) -> bool:
        self.reached |= processes.preempted() if processes.is_multiprocess() else bool(self.signal)
        return self.reached

    def before(self, function: Callable[..., Any], step: int) -> Callable[..., Any]:
        """The function, which asks first at each call, in all processes, and raises Stopped where it is to stop."""

        def asking(*arguments: Any) -> Any:
            if self(step):
                raise Stopped
            return function(*arguments)

        return asking

    @property
    def status(self) -> int:
        """The exit status of a training that stopped, as a shell has it; see `exit_status`."""
        return 128 + (self.signal or signal.SIGTERM) if self.reached else 0


def exit_status(status: int) -> int:
    """That of the command: to be told to go, and to save and go, is no failure, but Ctrl-C ends scripts too."""
    return processes.stopped_status() if status == 128 + signal.SIGTERM else status


def _tell(text: str) -> None:
    """Writes a line to stderr, below the progress bar where there is one; in a signal handler, so unbuffered."""
    with contextlib.suppress(OSError):
        os.write(2, f"{chr(10) if os.isatty(2) else ''}{text}\n".encode())


@contextmanager
def interrupted() -> Iterator[Stop]:
    """Notes Ctrl-C and SIGTERM; Ctrl-C pressed once more ends the process at once."""
    stop = Stop()

    def note(number: int, frame: Any) -> None:
        stop.signal = number
        if number == signal.SIGTERM:
            _tell("stopping after this step")
            return
        if processes.is_primary():
            _tell("stopping after this step; press Ctrl-C again to end at once, without saving")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if processes.is_multiprocess():
            os.kill(os.getpid(), signal.SIGTERM)  # which JAX hears, and tells the other processes

    # With several processes SIGTERM is JAX's own.
    numbers = [signal.SIGINT] if processes.is_multiprocess() else [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
