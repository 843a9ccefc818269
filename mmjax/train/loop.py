"""The training loop."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax

from mmjax.train.state import State
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
    stop: Callable[[], bool],
) -> State:
    """Runs steps until `last` are done or `stop` says so, and returns the state.

    Args:
        step_fn: the compiled step; it may donate the state.
        batches: the batches from this state's step on.
        put: places a batch on the devices.
        after: is handed the state after each step, before the next batch is drawn, to evaluate and save it.
        log: is handed the metrics of a step, "wait", the seconds it waited for data, and "transfer", those that it took
            to hand its batch to the devices; one step late, so that the devices never wait for it.
    """
    done = int(state.step)
    late: tuple[int, Any, float, float] | None = None
    while done < last and not stop():
        begin = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - begin
        with jax.transfer_guard("disallow"):
            begin = time.perf_counter()
            placed = put(batch)
            sent = time.perf_counter() - begin
            state, metrics = step_fn(state, placed)
        done += 1
        if late:
            _fetch(log, *late)
        late = (done, metrics, waited, sent)
        after(state, done)
    if late:
        _fetch(log, *late)
    return state


def _fetch(log: Callable[[int, dict[str, float]], None], step: int, metrics: Any, waited: float, sent: float) -> None:
    figures = {name: float(value) for name, value in jax.device_get(metrics).items()}
    log(step, figures | {"wait": waited, "transfer": sent})


def check_finite(metrics: Mapping[str, float], step: int, limit: int) -> None:
    """Raises UserError once `limit` steps in a row had a loss or gradient that is not finite."""
    if metrics["bad_steps"] >= limit:
        raise UserError(
            f"step {step}: the loss, its gradient or the update was not finite {limit} steps in a row "
            "(train.max_bad_steps); try a smaller optimizer.learning_rate, or optimizer.clip=1.0, in another --workdir"
        )


@contextmanager
def interrupted() -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C was pressed since; pressed once more, it ends the process at once."""
    pressed = []

    def note(number: int, frame: Any) -> None:
        pressed.append(number)
        os.write(2, b"\nstopping after this step; press Ctrl-C again to end at once, without saving\n")
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
