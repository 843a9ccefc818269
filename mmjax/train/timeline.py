"""Time accounting of a training run, over all its restarts, and a watchdog that reports where a process hangs."""

import contextlib
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from mmjax.files import finite

# Only "steps" is progress. "lost" is the time from the last checkpoint before a crash until the next start.
KINDS = ("steps", "start", "compile", "data", "evaluation", "checkpoint", "lost")
SPLIT = "time"  # of its lines in metrics.jsonl
COMPILING = "/jax/core/compile/backend_compile_duration"
RECENT = 50  # steps of which the median duration is taken
HANG_FACTOR = 10.0  # times the usual duration is a hang
MIN_HANG_SECONDS = 30.0  # shorter pauses are no hang
UNKNOWN_SECONDS = 600.0  # a hang, if the usual duration is unknown
POLL_SECONDS = 1.0
WAITS = {"steps": "waiting for the devices, and so for all processes", "data": "waiting for the next batch"}


class Timeline:
    """Seconds by kind of activity since the start of the process. There is always one current kind.

    Attributes:
        kind: the current kind.
        since: when it began, by time.monotonic.
        step: number of steps done.
        longest: the longest uninterrupted time of each kind, in seconds.
    """

    def __init__(self, begin: float):
        """`begin` is when this run started, by time.time."""
        self.seconds = dict.fromkeys(KINDS, 0.0)
        self.longest: dict[str, float] = {}
        self.steps: deque[float] = deque(maxlen=RECENT)
        self.kind, self.step = "start", 0
        self.since = time.monotonic() - max(time.time() - begin, 0.0)
        self._counted = self._stepped = self.since
        self._other = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)

    def resume(self, rows: Iterable[Mapping[str, Any]], start: int) -> None:
        """Continues the accounts of earlier runs up to the step resumed from; the time after it is lost."""
        lines = [row for row in rows if row.get("split") == SPLIT and isinstance(row.get("step"), int)]
        kept = [row for row in lines if row["step"] <= start]
        if not kept or not finite(kept[-1].get("at")):
            return
        for name in KINDS:
            seconds = kept[-1].get(name)
            self.seconds[name] += seconds if finite(seconds) else 0.0
        began = time.time() - (time.monotonic() - self._counted)
        if not kept[-1].get("stopped"):
            self.seconds["lost"] += max(began - kept[-1]["at"], 0.0)

    def enter(self, kind: str) -> None:
        """Ends the current kind and begins another."""
        now = time.monotonic()
        self._count(now)
        if kind != self.kind:
            self.longest[self.kind] = max(self.longest.get(self.kind, 0.0), now - self.since)
        if self.kind not in ("steps", "data"):
            self._other += now - self.since
        self.kind, self.since = kind, now

    def step_done(self, step: int) -> None:
        """Records a finished step and its duration, without other activities in between."""
        now = time.monotonic()
        if self.step:
            self.steps.append(max(now - self._stepped - self._other, 0.0))
        self._stepped, self._other, self.step = now, 0.0, step

    def median_step(self) -> float | None:
        """The median duration of recent steps in seconds; None before three steps."""
        return float(np.median(self.steps)) if len(self.steps) >= 3 else None

    @contextmanager
    def during(self, kind: str) -> Iterator[None]:
        before = self.kind
        self.enter(kind)
        try:
            yield
        finally:
            self.enter(before)

    def metrics(self, stopped: bool = False) -> dict[str, float]:
        """Seconds by kind, "goodput", the fraction of the wall-clock time spent in steps, and when this was measured.

        Args:
            stopped: the run ends here on purpose, so that the time until the next start is not lost.
        """
        self._count(time.monotonic())
        total = sum(self.seconds.values())
        seconds = {name: round(value, 3) for name, value in self.seconds.items()}
        goodput = self.seconds["steps"] / total if total else 0.0
        metrics = {"goodput": round(goodput, 4), **seconds, "at": round(time.time(), 3)}
        return metrics | ({"stopped": 1.0} if stopped else {})

    def close(self) -> None:
        jax.monitoring.unregister_event_duration_listener(self._on_duration)

    def _count(self, now: float) -> None:
        self.seconds[self.kind] += now - self._counted
        self._counted = now

    def _on_duration(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == COMPILING:
            self.seconds["compile"] += duration_secs
            self.seconds[self.kind] -= duration_secs


def process_start() -> float:
    """When this process started, by time.time; now, where the system does not tell."""
    try:
        with open("/proc/self/stat", encoding="ascii") as stat, open("/proc/uptime", encoding="ascii") as uptime:
            ticks = int(stat.read().rpartition(")")[2].split()[19])
            return time.time() - (float(uptime.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return time.time()


@contextmanager
def watching(timeline: Timeline, least: float = MIN_HANG_SECONDS, poll: float = POLL_SECONDS) -> Iterator[None]:
    """Reports to stderr, while the block runs, an activity that takes ten times as long as usual."""
    ended = threading.Event()
    main = threading.get_ident()

    def watch() -> None:
        reported = 0.0
        while not ended.wait(poll):
            kind, since, passed = timeline.kind, timeline.since, time.monotonic() - timeline.since
            usual = timeline.median_step() if kind in WAITS else timeline.longest.get(kind)
            if since != reported and passed > (UNKNOWN_SECONDS if usual is None else max(HANG_FACTOR * usual, least)):
                reported = since
                with contextlib.suppress(OSError):  # nobody can be told
                    os.write(2, _hang_report(timeline, main, passed, usual).encode())

    thread = threading.Thread(target=watch, name="mmjax-watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _hang_report(timeline: Timeline, main: int, passed: float, usual: float | None) -> str:
    """The process, what it waits for, and the stack of its main thread, innermost call last."""
    process = f"process {jax.process_index()} of {jax.process_count()}" if jax.process_count() > 1 else "training"
    known = "" if usual is None else f" (usually {usual:.2g} s)"
    frame = sys._current_frames().get(main)
    stack = "".join(traceback.format_stack(frame)) if frame else ""
    activity = WAITS.get(timeline.kind, f"in: {timeline.kind}")
    return f"\nmmjax: {process} hangs after step {timeline.step:,} for {passed:.0f} s{known}, {activity}\n{stack}"
