"""What a training shows as it goes: the progress bar, and the mean of the metrics over some steps."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from mmjax import config
from mmjax.parallel import processes
from mmjax.progress import progress_bar
from mmjax.train.loop import check_finite
from mmjax.train.metrics import Metrics
from mmjax.train.timeline import Timeline
from mmjax.types import InputStats

COUNTERS = ("nonfinite_steps", "examples", "wait", "transfer", "ready")  # not averaged
TOO_LONG = 0.2  # of the time, to wait for the input
JUDGED = 10.0  # seconds at least in which that is measured

logger = logging.getLogger(__name__)


class Progress:
    """Handed the metrics of each step: moves the progress bar, and every train.log_every steps writes their means.

    The bar shows steps, images a second, the loss and the time left. Steps that were not finite are counted, not
    averaged.
    """

    def __init__(
        self,
        train: config.TrainConfig,
        metrics: Metrics,
        start: int,
        last: int,
        steps: int,
        feed: InputStats,
        timeline: Timeline,
    ):
        """The bar goes from `start` to `last`; `steps` has the whole training, `feed` how its batches are made."""
        self.timeline = timeline
        self.train, self.metrics, self.steps, self.feed = train, metrics, steps, feed
        self.spent: dict[str, float] | None = None  # of the feed, when its judging began; None in the first window
        self.judged: list[dict[str, float]] = []  # the steps since then,
        self.seconds = 0.0  # and how long they took
        self.told = False
        shown = processes.is_primary()
        self.bar = progress_bar(None, "", last, initial=start, leave=True, delay=0.0, disable=not shown)
        self.window: list[dict[str, float]] = []
        self.untimed = 1  # steps of the window that do not count for its speed: the first one is compiled
        self.begin = time.perf_counter()

    def log(self, step: int, values: dict[str, float]) -> None:
        """Raises UserError where too many steps in a row were not finite."""
        check_finite(values, step, self.train.max_nonfinite_steps, self.train.skip_grad_spikes > 0)
        self.window.append(values | {"ready": self.feed.ready})
        seconds = max(time.perf_counter() - self.begin, 1e-9)
        rate = self.train.batch * max(len(self.window) - self.untimed, 1) / seconds
        if self.untimed and len(self.window) == 1:
            self.begin = time.perf_counter()
        self.bar.set_postfix_str(f"loss {values['loss']:.4f}, {rate:.0f} examples/s", refresh=False)
        self.bar.update(step - self.bar.n)
        if step % self.train.log_every and step != self.steps:
            return
        finite = [row for row in self.window if row["nonfinite_steps"] == 0]
        names = [name for name in values if name not in COUNTERS]
        metrics = {name: float(np.mean([row[name] for row in finite])) if finite else float("nan") for name in names}
        metrics["examples_per_second"] = rate
        metrics["data_wait_fraction"] = sum(row["wait"] for row in self.window[self.untimed :]) / seconds
        metrics["skipped_steps"] = float(len(self.window) - len(finite))
        read = sum(row["examples"] for row in self.window)
        metrics["corrupt_examples"] = float(self.train.batch * len(self.window) - read)
        metrics["batches_ready"] = float(np.mean([row["ready"] for row in self.window]))
        self.metrics.write(step, "train", metrics)
        self.metrics.write_time(step, self.timeline.metrics())
        self._check_input(step, seconds)
        self.window.clear()
        self.untimed = 0
        self.begin = time.perf_counter()

    def _check_input(self, step: int, seconds: float) -> None:
        """Warns once where the steps wait for their input, and names what it waits for itself."""
        if self.told:
            return
        if self.spent is None:  # nothing is ready at first
            self.spent = dict(self.feed.seconds)
            return
        self.judged += self.window
        self.seconds += seconds
        if self.seconds < JUDGED:
            return
        waited, sent = (sum(row[name] for row in self.judged) for name in ("wait", "transfer"))
        share = (waited + sent) / self.seconds
        self.told = share >= TOO_LONG
        if self.told:
            spent = {name: total - self.spent.get(name, 0.0) for name, total in self.feed.seconds.items()}
            slow = "handing batches to the devices" if sent > waited or not spent else max(spent, key=spent.__getitem__)
            told = (
                "step %d: the input is the bottleneck: the steps waited for it %.0f%% of the time; what is slow is %s"
            )
            logger.warning(told, step, 100 * share, slow)
        self.spent, self.judged, self.seconds = dict(self.feed.seconds), [], 0.0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Evaluating and saving do not count as time of the steps."""
        begin = time.perf_counter()
        yield
        self.begin += time.perf_counter() - begin

    def close(self) -> None:
        self.bar.close()
