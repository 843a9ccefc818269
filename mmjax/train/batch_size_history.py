"""How far a training is in its stream of examples, where it went on with other batches than it began with.

A training's stretches are lists of the first step, counted from 0, and the batch from there on, in the order of steps:
[[0, 64], [1000, 32]] for 1,000 steps of 64 examples, and of 32 since then.
"""

from collections.abc import Sequence
from itertools import pairwise

BatchSizeHistory = Sequence[Sequence[int]]


def extend(history: BatchSizeHistory, step: int, batch: int) -> list[list[int]]:
    """The stretches of a training that goes on behind so many steps with a batch.

    What was recorded from that step on is left out: those steps are done anew, or were never done.
    """
    kept = [list(stretch) for stretch in history if stretch[0] < step] or [[0, batch]]
    return kept if kept[-1][1] == batch else [*kept, [step, batch]]


def examples_seen(history: BatchSizeHistory, step: int) -> int:
    """Where in the stream of examples the batch of a step begins: how many the steps before it had."""
    ends = [first for first, _ in history[1:]] + [step]
    return sum(max(min(end, step) - first, 0) * batch for (first, batch), end in zip(history, ends, strict=True))


def valid(history: object) -> bool:
    """Whether something read from a file can be a training's stretches."""
    if not isinstance(history, list) or not history:
        return False
    pairs = [s for s in history if isinstance(s, list) and len(s) == 2 and all(type(n) is int for n in s)]
    firsts = [first for first, _ in pairs]
    return (
        len(pairs) == len(history)
        and firsts[0] == 0
        and all(before < after for before, after in pairwise(firsts))
        and all(batch > 0 for _, batch in pairs)
    )
