"""Progress of long work: a bar on a terminal, else periodic lines for a log."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from mmjax.terminal import printable

INTERVAL = 30.0  # seconds between lines of a log
GONE = (OSError, ValueError)  # raised when the terminal or log is closed, which does not stop the work


def progress_bar(
    iterable: Iterable[Any] | None = None,
    desc: str = "",
    total: int | None = None,
    *,
    unit: str = "step",
    initial: int = 0,
    leave: bool = False,
    delay: float = 2.0,
    disable: bool = False,
) -> "ProgressBar | ProgressLog":
    """Returns a context manager that shows progress on stderr.

    Args:
        iterable: items to iterate over; without it, call `update(n)`.
        desc: name of the work, as in "encoding captions".
        total: total number of units.
        unit: name of a unit, singular.
        initial: number of units done before.
        leave: keep the bar on the terminal at the end.
        delay: seconds before anything is shown.
        disable: show nothing, as in all processes but the primary one.
    """
    options: dict[str, Any] = {"unit": unit, "initial": initial, "delay": delay, "disable": disable}
    if not (sys.stderr and not sys.stderr.closed and sys.stderr.isatty()):
        return ProgressLog(iterable, desc, total, **options)
    options |= {"leave": leave, "dynamic_ncols": True, "smoothing": 0.2, "mininterval": 0.5}
    return ProgressBar(iterable, desc, total, **options)


def write(text: str, file: Any = None) -> None:
    """Writes a line to stdout or `file`, above any progress bars."""
    with contextlib.suppress(*GONE):
        tqdm.write(printable(text), file or sys.stdout)
        (file or sys.stdout).flush()


class ProgressBar(tqdm):
    """tqdm's bar, without errors when the terminal is closed."""

    def display(self, *arguments: Any, **options: Any) -> bool:
        with contextlib.suppress(*GONE):
            return bool(super().display(*arguments, **options))
        return False

    def close(self) -> None:
        with contextlib.suppress(*GONE):
            super().close()


@dataclass
class ProgressLog:
    """A line at the first and the last update, and every INTERVAL seconds between them; see progress_bar."""

    iterable: Iterable[Any] | None
    desc: str
    total: int | None
    unit: str
    initial: int
    delay: float
    disable: bool
    note: str = ""  # shown in place of the speed
    first: bool = True
    shown: int | None = None  # units in the last line

    def __post_init__(self) -> None:
        self.n = self.initial
        self.start = self.n, time.monotonic()  # start of the measurement of speed
        self.due = self.start[1] + self.delay

    def update(self, n: int = 1) -> None:
        """Adds n units."""
        self.n += n
        if time.monotonic() >= self.due:
            self._show()
        if self.first:  # without the time of compilation
            self.first, self.start = False, (self.n, time.monotonic())

    def set_postfix_str(self, note: str, refresh: bool = True) -> None:
        """Shows a note in place of the speed."""
        self.note = note

    def close(self) -> None:
        """Writes the last line, if lines were written and it is new."""
        if self.shown not in (None, self.n):
            self._show()

    def _show(self) -> None:
        now = time.monotonic()
        speed = (self.n - self.start[0]) / max(now - self.start[1], 1e-9)
        parts = [f"{self.unit} {self.n:,}" + (f" of {self.total:,}" if self.total is not None else "")]
        parts.append(self.note or f"{speed:.3g}/s")
        if self.total is not None and speed > 0:
            parts.append(f"{tqdm.format_interval(max(self.total - self.n, 0) / speed)} left")
        self.due, self.shown = now + INTERVAL, self.n
        if self.disable:
            return
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {self.desc and self.desc + ': '}{', '.join(parts)}\n"
        with contextlib.suppress(*GONE):
            sys.stderr.write(line)  # one write, so that lines of processes do not mix
            sys.stderr.flush()

    def __iter__(self) -> Iterator[Any]:
        with self:
            for item in self.iterable or ():
                yield item
                self.update()

    def __enter__(self) -> "ProgressLog":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
