"""The number of examples seen follows from the batch sizes of a run."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmjax.train.batch_size_history import examples_seen, extend, valid

STARTS = st.lists(st.tuples(st.integers(0, 7), st.integers(1, 5)), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("step", "batch", "expected"),
    [
        (9, 16, [[0, 8], [6, 16]]),
        (9, 32, [[0, 8], [6, 16], [9, 32]]),
        (6, 32, [[0, 8], [6, 32]]),  # no step was done with 16
        (6, 8, [[0, 8]]),
        (4, 16, [[0, 8], [4, 16]]),  # what was newer is damaged
        (4, 8, [[0, 8]]),
        (0, 16, [[0, 16]]),
    ],
)
def test_extend(step: int, batch: int, expected: list[list[int]]) -> None:
    assert extend([[0, 8], [6, 16]], step, batch) == expected


def test_extend_an_empty_history() -> None:
    assert extend([], 0, 8) == [[0, 8]]
    assert extend([], 5, 8) == [[0, 8]]


@pytest.mark.parametrize(("step", "expected"), [(0, 0), (1, 8), (6, 48), (7, 64), (9, 96), (11, 100)])
def test_examples_seen(step: int, expected: int) -> None:
    assert examples_seen([[0, 8], [6, 16], [9, 2]], step) == expected


@given(STARTS)
def test_examples_seen_equals_the_sum_over_steps(starts: list[tuple[int, int]]) -> None:
    """Each start goes back some steps and takes a batch for its own; the list of all steps' batches says the rest."""
    history: list[list[int]] = []
    done: list[int] = []
    for back, batch in starts:
        done = done[: max(len(done) - back, 0)]
        history = extend(history, len(done), batch)
        assert examples_seen(history, len(done)) == sum(done)
        done = [*done, batch, batch, batch]
        assert valid(history)
        assert [examples_seen(history, step) for step in range(len(done) + 1)] == [
            sum(done[:step]) for step in range(len(done) + 1)
        ]


@pytest.mark.parametrize(
    "found",
    [
        [],
        {},
        None,
        8,
        [8],
        [[0]],
        [[0, 8, 1]],
        [[0, "8"]],
        [[0, 8.0]],
        [[0, True]],
        [[1, 8]],
        [[0, 0]],
        [[0, 8], [0, 9]],
        [[0, 8], [5, 1], [4, 2]],
    ],
)
def test_invalid_history(found: object) -> None:
    assert not valid(found)
