"""Progress of long work: a bar on a terminal; anywhere else, as in a pod's log, a plain line every so often."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

INTERVAL = 30.0  # seconds between two lines of a log
GONE = (OSError, ValueError)  # the terminal or the reader of the log: the work continues without them


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
    """A context manager that shows on stderr how much of the work is done.

    Args:
        iterable: what the work is done on, one unit an item; without it, `update(n)` says that n more are done.
        desc: what the work is, as "encoding captions".
        total: number of units, done before or not.
        unit: singular.
        initial: number of units that were done before.
        leave: keep the bar on the terminal when the work is done.
        delay: seconds before anything is shown; shorter work is not shown at all.
        disable: show nothing, as in all processes but the first one.
    """
    options: dict[str, Any] = {"unit": unit, "initial": initial, "delay": delay, "disable": disable}
    if not _is_terminal(sys.stderr):
        return ProgressLog(iterable, desc, total, **options)
    options |= {"leave": leave, "dynamic_ncols": True, "smoothing": 0.2, "mininterval": 0.5}
    return ProgressBar(iterable, desc, total, **options)


def _is_terminal(file: Any) -> bool:
    return bool(file and not file.closed and file.isatty())


def write(text: str, file: Any = None) -> None:
    """Writes a line to stdout or `file`, above the progress bars where there are any."""
    with contextlib.suppress(*GONE):
        tqdm.write(text, file or sys.stdout)
        (file or sys.stdout).flush()


class ProgressBar(tqdm):
    """tqdm's bar, which ends no work when the terminal is gone."""

    def display(self, *arguments: Any, **options: Any) -> bool:
        with contextlib.suppress(*GONE):
            return bool(super().display(*arguments, **options))
        return False

    def close(self) -> None:
        with contextlib.suppress(*GONE):
            super().close()


class ProgressLog:
    """A line at the first and the last update, and every INTERVAL seconds between them; see progress_bar."""

    def __init__(
        self,
        iterable: Iterable[Any] | None,
        desc: str,
        total: int | None,
        unit: str,
        initial: int,
        delay: float,
        disable: bool,
    ):
        self.iterable, self.desc, self.total, self.unit = iterable, desc, total, unit
        self.n, self.disable = initial, disable
        self.note = ""
        self.start = initial, time.monotonic()  # the speed is measured from here on
        self.first = True
        self.due = self.start[1] + delay
        self.shown: int | None = None  # the units in the last line

    def update(self, n: int = 1) -> None:
        """n more units are done."""
        self.n += n
        if time.monotonic() >= self.due:
            self._show()
        if self.first:  # it compiles, which the others do not
            self.first, self.start = False, (self.n, time.monotonic())

    def set_postfix_str(self, note: str, refresh: bool = True) -> None:
        """What the lines say in place of the speed in units."""
        self.note = note

    def close(self) -> None:
        """Writes the last line, unless it stands there or none does."""
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
            sys.stderr.write(line)  # one write, so that no other process writes within the line
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
