"""Several processes: each reads its part and nothing else, and together they have all, each example once."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from every_source import NAMES, TOKENIZER, joined, of, same, take

from mmjax.data import clip, decoding, evaluation_batches, pipeline, scenes, shard_cache, sound, training_batches
from mmjax.data.source import Examples

SOURCES = pytest.mark.parametrize("name", NAMES)
PROCESSES = (1, 2, 3, 8)
BATCH = 24
DRAWN = ("scenes", "questions", "mixture", "lacking")

# What opens, decodes or draws an example, by source.
OPENS: dict[str, list[tuple[Any, str]]] = {
    "scenes": [(scenes.draw, "example")],
    "questions": [(scenes.draw, "draw_things")],
    "clips_folder": [(clip, "read_frames")],
    "audio_folder": [(sound, "read_samples")],
    "tokens": [(shard_cache.ArrayReader, "take_ragged")],
    "mixture": [(scenes.draw, "example"), (decoding, "decode")],
    "lacking": [(scenes.draw, "draw_things"), (decoding, "decode")],
}


@pytest.fixture(name="opened")
def count_opened(name: str, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counted: Counter[str] = Counter()

    def counting(call: Any) -> Any:
        def counted_call(*arguments: Any, **named: Any) -> Any:
            counted[name] += 1
            return call(*arguments, **named)

        return counted_call

    for owner, attribute in OPENS.get(name, [(decoding, "decode")]):
        monkeypatch.setattr(owner, attribute, counting(getattr(owner, attribute)))
    return counted


def read_parts(name: str, roots: dict[str, Path], opened: Counter[str], processes: int) -> list[list[Examples]]:
    """What each process reads for three steps, which must be what it opens."""
    parts = []
    for process in range(processes):
        source, config = of(name, roots, batch=BATCH)
        rows = BATCH // processes
        opened.clear()
        start = 5 * BATCH
        spec = pipeline.make_read_spec(config.data, start, start + 3 * BATCH, BATCH, process * rows, rows, True, 3)
        parts.append(list(source.read(spec)))
        known = len({key for part in parts[-1] for key in part["key"].tolist()})
        # Scenes that were drawn are kept; all else is opened anew each epoch.
        assert known <= opened[name] <= 3 * rows if name in DRAWN else opened[name] == 3 * rows
    return parts


@SOURCES
def test_each_process_opens_its_part_alone_and_all_together_have_the_global_batches(
    name: str, roots: dict[str, Path], opened: Counter[str]
) -> None:
    (whole,) = read_parts(name, roots, opened, 1)
    for processes in PROCESSES[1:]:
        parts = read_parts(name, roots, opened, processes)
        assert len(whole) == 3 and {len(part) for part in parts} == {3}
        for batch, *shares in zip(whole, *parts, strict=True):
            timeless = [
                {key: value for key, value in rows.items() if key != "read_seconds"} for rows in (batch, *shares)
            ]
            assert same(timeless[0], joined(timeless[1:]))


@SOURCES
def test_an_evaluation_has_each_example_once_on_any_number_of_processes(
    name: str, roots: dict[str, Path], opened: Counter[str]
) -> None:
    limit = {"evaluation_examples": 29} if name in ("scenes", "questions") else {}
    source, config = of(name, roots, training=False, batch=BATCH, **limit)
    size = pipeline.evaluation_size(source, config)
    assert size % BATCH and all(size % processes for processes in (3, 8))
    whole = take(evaluation_batches(source, TOKENIZER, config), 9)
    ids = [i for batch in whole for i in batch["id"] if i]
    assert len(ids) == len(set(ids)) == size and sum(int(batch["mask"].sum()) for batch in whole) == size
    for processes in PROCESSES[1:]:
        shares = []
        for process in range(processes):
            mine, _ = of(name, roots, training=False, batch=BATCH)
            opened.clear()
            shares.append(take(evaluation_batches(mine, TOKENIZER, config, process, processes), 9))
            count = sum(i != "" for batch in shares[-1] for i in batch["id"])
            # A process that has none looks at one, to know what an empty batch is like.
            assert opened[name] == (count or 1)
        assert {len(share) for share in shares} == {len(whole)}
        for batch, *parts in zip(whole, *shares, strict=True):
            assert same(batch, joined(parts))
    assert any(not any(batch["id"]) for share in shares for batch in share)


@SOURCES
def test_a_process_reads_no_more_for_batches_that_end_without_it(
    name: str, roots: dict[str, Path], opened: Counter[str]
) -> None:
    """The second process has a part of the first two batches, and none of the last."""
    limit = 4 if name in ("mixture", "lacking") else 9  # of its first part; the others have their own
    source, config = of(name, roots, training=False, batch=4, evaluation_examples=limit)
    batches = list(evaluation_batches(source, TOKENIZER, config, 1, 2))
    assert [int(batch["mask"].sum()) for batch in batches] == [2, 2, 0] and opened[name] == 4
    assert batches[-1]["id"] == ["", ""] and not np.any(batches[-1]["mask"])


def test_training_on_processes_is_the_same_as_on_one(roots: dict[str, Path]) -> None:
    source, config = of("mixture", roots, batch=BATCH)
    whole = take(training_batches(source, TOKENIZER, config, 3), 2)
    for processes in PROCESSES[1:]:
        shares = [take(training_batches(source, TOKENIZER, config, 3, p, processes), 2) for p in range(processes)]
        assert all(same(batch, joined(list(parts))) for batch, *parts in zip(whole, *shares, strict=True))
