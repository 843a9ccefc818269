"""A watchdog that reports where a process hangs."""

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from mmjax.train.timeline import Timeline

FACTOR = 10.0  # times the usual duration is a hang
MIN_SECONDS = 30.0  # shorter pauses are no hang
UNKNOWN = 600.0  # seconds, if the usual duration is unknown
POLL_SECONDS = 1.0
WAITS = {"steps": "waiting for the devices, and so for all processes", "data": "waiting for the next batch"}


@contextmanager
def watching(timeline: Timeline, least: float = MIN_SECONDS, poll: float = POLL_SECONDS) -> Iterator[None]:
    """Reports to stderr, while the block runs, an activity that takes ten times as long as usual."""
    ended = threading.Event()
    main = threading.get_ident()

    def watch() -> None:
        reported = 0.0
        while not ended.wait(poll):
            kind, since, passed = timeline.kind, timeline.since, time.monotonic() - timeline.since
            usual = timeline.median_step() if kind in WAITS else timeline.longest.get(kind)
            if since != reported and passed > (UNKNOWN if usual is None else max(FACTOR * usual, least)):
                reported = since
                os.write(2, report(timeline, main, passed, usual).encode())

    thread = threading.Thread(target=watch, name="mmjax-watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def report(timeline: Timeline, main: int, passed: float, usual: float | None) -> str:
    """The process, what it waits for, and the stack of its main thread, innermost call last."""
    process = f"process {jax.process_index()} of {jax.process_count()}" if jax.process_count() > 1 else "training"
    known = "" if usual is None else f" (usually {usual:.2g} s)"
    frame = sys._current_frames().get(main)
    stack = "".join(traceback.format_stack(frame)) if frame else ""
    activity = WAITS.get(timeline.kind, f"in: {timeline.kind}")
    return f"\nmmjax: {process} hangs after step {timeline.step:,} for {passed:.0f} s{known}, {activity}\n{stack}"
