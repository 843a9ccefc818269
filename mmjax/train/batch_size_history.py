"""The batch sizes that a run was trained with, and so how many examples it has seen.

A history lists pairs of a first step, counted from 0, and the batch size from there on, by step: [[0, 64], [1000, 32]]
is 1,000 steps with a batch of 64, and a batch of 32 since then.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from mmjax.config.schema import MAX_BATCH, MAX_STEPS

BatchSizeHistory = Sequence[Sequence[int]]


def extend(history: BatchSizeHistory, step: int, batch: int) -> list[list[int]]:
    """The history of a run that resumes after `step` steps with this batch size.

    Entries from that step on are dropped: those steps are repeated, or never ran.
    """
    kept = [list(entry) for entry in history if entry[0] < step] or [[0, batch]]
    return kept if kept[-1][1] == batch else [*kept, [step, batch]]


def examples_seen(history: BatchSizeHistory, step: int) -> int:
    """The number of examples in the first `step` steps."""
    ends = [first for first, _ in history[1:]] + [step]
    return sum(max(min(end, step) - first, 0) * batch for (first, batch), end in zip(history, ends, strict=True))


def valid(history: Any) -> bool:
    """Whether a value read from a file is a valid history."""
    try:
        firsts, batches = zip(*history, strict=True)
    except (TypeError, ValueError):
        return False
    whole = all(type(number) is int for number in firsts + batches)
    bounded = whole and max(batches) <= MAX_BATCH and max(firsts) <= MAX_STEPS
    return bounded and firsts[0] == 0 < min(batches) and all(before < after for before, after in pairwise(firsts))
