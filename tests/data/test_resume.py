"""At any step, on any number of processes and with another batch, training goes on as if it had never stopped."""

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
from every_source import NAMES, TOKENIZER, joined, of, same, take

from mmjax.config import Config
from mmjax.data import training_batches
from mmjax.data.source import Source
from mmjax.types import Batch

BATCH, STEPS = 8, 9
POINTS = 5  # for each source, more than 50 in all


def go_on(source: Source, config: Config, step: int, count: int, processes: int, position: int) -> list[Batch]:
    shares = [
        take(training_batches(source, TOKENIZER, config, step, process, processes, position), count)
        for process in range(processes)
    ]
    return [joined(list(parts)) for parts in zip(*shares, strict=True)]


def rows(batches: list[Batch], first: int, count: int) -> Batch:
    """Some examples of consecutive batches."""
    whole = joined(batches)
    return {name: values[first : first + count] for name, values in whole.items()}


def by_id(batch: Batch) -> list[int]:
    """The rows by their id, and where an example is there twice, of two epochs, by its image."""
    return sorted(
        range(len(batch["id"])), key=lambda i: (batch["id"][i], batch["image"][i].tobytes(), *batch["text"][i])
    )


@pytest.mark.parametrize("name", NAMES)
def test_random_steps_processes_and_batches_give_what_the_uninterrupted_run_does(
    name: str, roots: dict[str, Path]
) -> None:
    draw = random.Random(name)
    source, config = of(name, roots, batch=BATCH)
    whole = take(training_batches(source, TOKENIZER, config), STEPS)
    again, _ = of(name, roots, batch=BATCH)
    for _ in range(POINTS):
        step, processes, batch = draw.randrange(1, STEPS - 1), draw.choice([1, 2, 4, 8]), draw.choice([8, 16])
        changed = dataclasses.replace(config, train=dataclasses.replace(config.train, batch=batch))
        (found,) = go_on(again, changed, step, 1, processes, step * BATCH)
        expected = rows(whole, step * BATCH, batch)
        if name == "coco_tfds" and batch != BATCH:  # whose rows are in another order
            found, expected = ({k: [part[k][i] for i in by_id(part)] for k in part} for part in (found, expected))
            found, expected = (
                {k: np.array(v) for k, v in part.items() if k != "captions"} for part in (found, expected)
            )
        assert same(found, expected), (step, processes, batch)


@pytest.mark.parametrize("name", ["scenes", "coco_folder", "clips_folder", "tokens", "mixture"])
def test_other_batches_neither_repeat_nor_skip_an_example(name: str, roots: dict[str, Path]) -> None:
    """The batch changes twice within epochs, to sizes that do not divide one."""
    source, config = of(name, roots, batch=7)
    position, ids = 0, []
    for batch, count in ((7, 2), (11, 2), (5, 3), (13, 3)):
        changed = dataclasses.replace(config, train=dataclasses.replace(config.train, batch=batch))
        found = take(training_batches(source, TOKENIZER, changed, 0, 0, 1, position), count)
        ids += [i for part in found for i in part["id"]]
        position += batch * count
    assert len(ids) == position == 90
    prefixes = ("coco/", "shapes/") if name == "mixture" else ("",)
    for prefix in prefixes:
        theirs = [i for i in ids if i.startswith(prefix)]
        size = len(set(theirs))
        assert size == {"shapes/": 7}.get(prefix, 23)
        epochs = [theirs[start : start + size] for start in range(0, len(theirs), size)]
        assert len(epochs) > 2 and all(len(set(epoch)) == len(epoch) for epoch in epochs)
    again, _ = of(name, roots, batch=15)
    straight = take(training_batches(again, TOKENIZER, of(name, roots, batch=15)[1]), 6)
    assert [i for part in straight for i in part["id"]] == ids


def test_going_on_costs_nothing(roots: dict[str, Path]) -> None:
    """What is read of each part at step a million is what those steps need, and no more."""
    source, config = of("mixture", roots, batch=BATCH)
    first, later = (take(training_batches(source, TOKENIZER, config, step), 1)[0] for step in (0, 1_000_000))
    assert not same(first, later)
    assert sum(part.num_read for part in source.components) <= 2 * 4 * BATCH  # some batches are made ahead
    counts = [np.mean([i.startswith("coco/") for i in batch["id"]]) for batch in (first, later)]
    assert all(0.4 < count < 1 for count in counts)
