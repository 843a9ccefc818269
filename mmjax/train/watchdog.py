"""Tells where each process stands when nothing has moved for long."""

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from mmjax.train.timeline import Timeline

FACTOR = 10.0  # of what is usual
LEAST = 30.0  # seconds; shorter pauses are no hang
UNKNOWN = 600.0  # seconds, where it is not known what is usual
LOOKS = 1.0  # seconds between looks
WAITS = {"steps": "waits for the devices, and so for every other process", "data": "waits for its next batch"}


@contextmanager
def watching(timeline: Timeline, least: float = LEAST, looks: float = LOOKS) -> Iterator[None]:
    """Watches, while the block runs, for a step that takes ten times as long as usual; writes to stderr."""
    ended = threading.Event()
    main = threading.get_ident()

    def watch() -> None:
        told = 0.0
        while not ended.wait(looks):
            kind, since, passed = timeline.kind, timeline.since, time.monotonic() - timeline.since
            usual = timeline.median_step() if kind in WAITS else timeline.longest.get(kind)
            if since != told and passed > (UNKNOWN if usual is None else max(FACTOR * usual, least)):
                told = since
                os.write(2, report(timeline, main, passed, usual).encode())

    thread = threading.Thread(target=watch, name="mmjax-watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def report(timeline: Timeline, main: int, passed: float, usual: float | None) -> str:
    """Which process it is, what it waits for, and the stack of its main thread, the innermost call last."""
    process = f"process {jax.process_index()} of {jax.process_count()}" if jax.process_count() > 1 else "the training"
    known = "" if usual is None else f" (usually {usual:.2g} s)"
    frame = sys._current_frames().get(main)
    stack = "".join(traceback.format_stack(frame)) if frame else ""
    does = WAITS.get(timeline.kind, f"is busy with: {timeline.kind}")
    return f"\nmmjax: {process} stands still after step {timeline.step:,} for {passed:.0f} s{known}: it {does}\n{stack}"
