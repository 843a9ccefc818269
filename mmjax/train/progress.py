"""What a training shows as it goes: the progress bar, and the mean of the metrics over some steps."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from tqdm import tqdm

from mmjax import config
from mmjax.train.loop import check_finite
from mmjax.train.metrics import Metrics

COUNTERS = ("bad_steps", "examples", "wait")  # not averaged


class Progress:
    """Handed the metrics of each step: moves the bar, and every train.log_every steps writes their means.

    The bar shows steps, pictures a second, the loss and the time left. Steps that were not finite are counted, not
    averaged.
    """

    def __init__(self, train: config.Train, metrics: Metrics, start: int, last: int, steps: int):
        """The bar goes from `start` to `last`; `steps` has the whole training."""
        self.train, self.metrics, self.steps = train, metrics, steps
        self.bar = tqdm(initial=start, total=last, unit="step", dynamic_ncols=True, smoothing=0.2, mininterval=0.5)
        self.window: list[dict[str, float]] = []
        self.begin = time.perf_counter()

    def log(self, step: int, values: dict[str, float]) -> None:
        """Raises UserError where too many steps in a row were not finite."""
        check_finite(values, step, self.train.max_bad_steps)
        self.window.append(values)
        seconds = max(time.perf_counter() - self.begin, 1e-9)
        rate = self.train.batch * len(self.window) / seconds
        self.bar.set_postfix_str(f"loss {values['loss']:.4f}, {rate:.0f} pictures/s", refresh=False)
        self.bar.update(step - self.bar.n)
        if step % self.train.log_every and step != self.steps:
            return
        finite = [row for row in self.window if row["bad_steps"] == 0]
        names = [name for name in values if name not in COUNTERS]
        figures = {name: float(np.mean([row[name] for row in finite])) if finite else float("nan") for name in names}
        figures["pictures_per_second"] = rate
        figures["waiting_for_data"] = sum(row["wait"] for row in self.window) / seconds
        figures["skipped_steps"] = float(len(self.window) - len(finite))
        read = sum(row["examples"] for row in self.window)
        figures["rejected_pictures"] = float(self.train.batch * len(self.window) - read)
        self.metrics.write(step, "train", figures)
        self.window.clear()
        self.begin = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Evaluating and saving do not count as time of the steps."""
        begin = time.perf_counter()
        yield
        self.begin += time.perf_counter() - begin

    def close(self) -> None:
        self.bar.close()
