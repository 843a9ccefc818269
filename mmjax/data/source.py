"""What a source of examples is.

A source is read as a stream of positions: position p is example p % size of epoch p // size. The global batch of step k
holds the positions from k * batch on, whatever the number of processes, so a run resumes at any step. All sources go to
a position at once; coco_tfds passes over the beginnings of the few files that it reads there (mmjax/data/streams.py).
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float16, Int64

from mmjax.types import InputStats

# Consecutive positions as read from a source, a dict of
#   image    float32 [b, y, x, c]  -1 (black) to 1 (white); clips [b, f, y, x, c]
#            or, from cached tokens, `codes` int32 [b, *grid] and what else was cached
#   mask     bool [b]              False: the image could not be read, `image` is 0 there
#   key      int64 [b]             names the example among all of the source, from 0 up; random draws depend on it
#   epoch    int64 [b]
#   id       list of b strings
#   captions list of b lists of strings
#   questions list of b strings    (of a source that provides "question") "" where there is none
#   answers  list of b lists of strings   (the same) all that people gave, none where there is no question
#   label    int64 [b]             (of a source that provides "label") class, -1 where there is none
#   problem  list of b strings     (optional) what is wrong with an image or clip of mask False
#   reading  float                 (optional) seconds that were waited for files
#   part     int64 [b]             of a mixture: which of its parts
Rows = dict[str, Any]


Share = tuple[Int64[np.ndarray, " b"], slice]


@dataclass(frozen=True)
class Reading:
    """Which positions one process reads, and how images are prepared.

    Attributes:
        shares: starts a pass over the global batches: the positions of each that are this source's, in rising order,
            and which of them the process reads, at least one, at a time.
        training: every epoch in another order, random crop and flip; otherwise in order, the center.
        seed: what the order and the random crops depend on, from 0 up.
        size, resize, flip: as in `mmjax.config.Data`.
    """

    shares: Callable[[], Iterator[Share]]
    training: bool
    seed: int
    size: int
    resize: int
    flip: bool

    def positions(self) -> Iterator[Int64[np.ndarray, " rows"]]:
        """Those that the process reads, as many at a time as it reads of a global batch."""
        return (positions[mine] for positions, mine in self.shares())


@dataclass
class Source:
    """Examples to read.

    Attributes:
        name: as in the config, data.source.
        size: examples in an epoch.
        provides: what a model or an evaluator may ask for: "image" or "codes", "text", "scene" (captions are of the
            scene grammar), "question" (and its answers), "label".
        all_captions: starts a pass over every caption, and over the questions and answers.
        read: the positions of a Reading, as many at a time as that gives.
        text_features: of texts, float16 [b, t, d], zero behind each text's tokens; None: a batch holds none.
        examined: how many images or clips were read so far.
        rejected: how many of them were found to be unreadable (once an epoch for each such image).
        named: the first of those.
        max_corrupt_fraction: as in `mmjax.config.Data`.
        feed: how the making of training batches goes.
        parts: of a mixture; their rejects are counted apart, and `part` [b] of its rows says which a row is of.
        field: where the config describes it.
        classes: names of the classes, by their label.
    """

    name: str
    size: int
    provides: tuple[str, ...]
    all_captions: Callable[[], Iterator[str]]
    read: Callable[[Reading], Iterator[Rows]]
    text_features: Callable[[Sequence[str]], Float16[np.ndarray, "b t d"]] | None = None
    examined: int = 0
    rejected: int = 0
    named: list[str] = dataclasses.field(default_factory=list)
    max_corrupt_fraction: float = 0.1
    feed: InputStats = dataclasses.field(default_factory=InputStats)
    parts: "tuple[Source, ...]" = ()
    field: str = "data"
    classes: tuple[str, ...] = ()

    @property
    def lacks_captions(self) -> bool:
        """Whether examples may be without one, which then have no text at all, not even an empty one."""
        return "question" in self.provides or "label" in self.provides


def share(start: int, stop: int | None, batch: int, first: int, rows: int) -> Iterator[Share]:
    """The global batches from `start` on, and in each the `rows` positions of one process, from the `first` on.

    Args:
        stop: the position behind the last one, which cuts the last batch short; None: endless.
        batch: positions in a global batch.
    """
    for begin in itertools.count(start, batch):
        end = begin + batch if stop is None else min(begin + batch, stop)
        if end <= begin + first:
            return
        yield np.arange(begin, end), slice(first, min(first + rows, end - begin))


def epoch_order(reading: Reading, size: int, epoch: int) -> Int64[np.ndarray, "{size}"]:
    """Which of `size` examples is at each place of an epoch: a permutation that follows from the seed and the epoch."""
    return np.random.default_rng((reading.seed, epoch)).permutation(size) if reading.training else np.arange(size)
