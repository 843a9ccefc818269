"""Several sources as one, drawn by weights; each keeps its own epochs.

The stream of training positions falls into cycles of equal length, in each of which a part has the same number of
places (its slots), in an order that follows from the seed and the number of the cycle. So both which part a position is
of, and how many of that part came before it, follow from the position alone. An evaluation takes the parts one after
the other.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from jaxtyping import Int64

from mmjax.config import DataConfig
from mmjax.data.source import Reading, Rows, Share, Source
from mmjax.types import UserError

LONGEST = 4096  # slots of a cycle; weights that would need more are rounded
MIN_CYCLE = 64  # so that a batch takes few cycles
KEPT = 64  # cycles
LISTS = ("id", "captions", "questions", "answers", "problem")
OF_ANY = ("text", "question", "label")  # provided where any part does: examples of the others are without

# Which part each position is of, and its position in the part's own stream.
Locate = Callable[[Int64[np.ndarray, " b"]], tuple[Int64[np.ndarray, " b"], Int64[np.ndarray, " b"]]]


def mix(sources: Mapping[str, Source], config: DataConfig, training: bool) -> Source:
    """A mixture as a source; its epoch is as long as those of all its parts together.

    Ids are PART/ID, and keys differ between parts. In training a part gives what it would give alone with its seed.

    Args:
        sources: the parts by their names in config.mixture.
        config: of the mixture.

    Raises:
        UserError: where parts have labels of different classes.
    """
    parts = [
        replace(source, field=f"data.mixture.{name}", max_corrupt_fraction=config.mixture[name].max_corrupt_fraction)
        for name, source in sources.items()
    ]
    data = [config.mixture[name] for name in sources]
    sizes = [source.size for source in parts]
    if not training:
        sizes = [min(size, part.evaluation_examples or size) for size, part in zip(sizes, data, strict=True)]
    slots = slots_of([part.weight for part in data])
    provides, classes = provided_by([source.provides for source in parts]), _classes(parts)

    def read(reading: Reading) -> Iterator[Rows]:
        locate = by_cycles(slots, reading.seed) if reading.training else one_after_the_other(sizes)

        def shares_of(number: int) -> Iterator[Share]:
            for positions, mine in reading.shares():
                part, place = locate(positions)
                theirs = part == number
                before, count = np.count_nonzero(theirs[: mine.start]), np.count_nonzero(theirs[mine])
                if count:
                    yield place[theirs], slice(before, before + count)

        with ExitStack() as stack:
            streams: list[Any] = []
            for number, (source, part) in enumerate(zip(parts, data, strict=True)):
                flip = reading.training and part.flip
                shares = functools.partial(shares_of, number)
                theirs = source.read(replace(reading, shares=shares, resize=part.resize, flip=flip))
                streams.append(stack.enter_context(closing(theirs)))  # type: ignore[type-var]
            for positions in reading.positions():
                part_of, _ = locate(positions)
                found = {}
                for number in np.unique(part_of).tolist():
                    rows = next(streams[number], None)
                    if rows is None or len(rows["key"]) != np.sum(part_of == number):
                        raise UserError(f"{parts[number].field}: ended too early; is the data set complete?")
                    found[number] = rows
                yield _together(part_of, found, list(sources), provides)

    def all_captions() -> Iterator[str]:
        streams = [source.all_captions() for source in parts]  # in turn: a tokenizer may look at the first ones only
        return (text for row in itertools.zip_longest(*streams) for text in row if text is not None)

    return Source("mixture", sum(sizes), provides, all_captions, read, parts=tuple(parts), classes=classes)


def provided_by(provided: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """What a mixture of parts with these provides: of OF_ANY what any of them does, and else what all do."""
    names = dict.fromkeys(itertools.chain.from_iterable(provided))
    return tuple(name for name in names if name in OF_ANY or all(name in others for others in provided))


def _classes(parts: Sequence[Source]) -> tuple[str, ...]:
    labeled = [part for part in parts if "label" in part.provides]
    for part in labeled[1:]:
        if part.classes != labeled[0].classes:
            raise UserError(
                f"{labeled[0].field}, {part.field}: have {len(labeled[0].classes):,} and {len(part.classes):,} classes "
                "that are not the same ones, and a model has one set; take the labels of one part"
            )
    return labeled[0].classes if labeled else ()


def slots_of(weights: Sequence[float]) -> tuple[int, ...]:
    """How many slots of a cycle each part has: in the proportion of the weights, to one in LONGEST.

    Weights such as 3 and 1, or 0.7 and 0.3, are met exactly. Others are rounded by largest remainders.
    """
    exact = [Fraction(repr(weight)) for weight in weights]
    whole = sum(exact)
    scale = math.lcm(*((weight / whole).denominator for weight in exact))
    if scale <= LONGEST:
        scale *= math.ceil(MIN_CYCLE / scale)
        return tuple(int(weight / whole * scale) for weight in exact)
    shares = [weight / whole * LONGEST for weight in exact]
    slots = [int(share) for share in shares]
    largest = sorted(range(len(shares)), key=lambda i: slots[i] - shares[i])
    for i in largest[: LONGEST - sum(slots)]:
        slots[i] += 1
    return tuple(slots)


def by_cycles(slots: Sequence[int], seed: int) -> Locate:
    """Training: cycles in which each part has its slots, in an order that follows from the seed and the cycle."""
    length, counts = sum(slots), np.array(slots, np.int64)
    in_order = np.repeat(np.arange(len(slots)), counts)
    before = np.arange(length) - np.repeat(np.cumsum(counts) - counts, counts)

    @functools.lru_cache(maxsize=KEPT)
    def cycle(number: int) -> tuple[Int64[np.ndarray, " slots"], Int64[np.ndarray, " slots"]]:
        """The part of each slot, and how many of its slots come before it."""
        # The last number keeps these draws apart from those of orders, crops and captions.
        parts = np.random.default_rng((seed, number, 0, 2)).permutation(in_order)
        places = np.empty_like(before)
        places[np.argsort(parts, kind="stable")] = before
        return parts, places

    def locate(positions: Int64[np.ndarray, " b"]) -> tuple[Int64[np.ndarray, " b"], Int64[np.ndarray, " b"]]:
        cycles, chosen = np.divmod(positions, length)
        part, place = np.empty_like(positions), np.empty_like(positions)
        for number in np.unique(cycles).tolist():
            here = cycles == number
            parts, places = cycle(number)
            part[here] = parts[chosen[here]]
            place[here] = number * counts[part[here]] + places[chosen[here]]
        return part, place

    return locate


def one_after_the_other(sizes: Sequence[int]) -> Locate:
    """Evaluation: all examples of the first part, then those of the second."""
    ends = np.cumsum(sizes)

    def locate(positions: Int64[np.ndarray, " b"]) -> tuple[Int64[np.ndarray, " b"], Int64[np.ndarray, " b"]]:
        part = np.searchsorted(ends, positions, side="right")
        return part, positions - (ends - sizes)[part]

    return locate


def _together(
    part_of: Int64[np.ndarray, " b"], found: Mapping[int, Rows], names: Sequence[str], provides: Sequence[str]
) -> Rows:
    """The rows of each part at the places of that part; what a part does not provide is blank there."""
    places = {number: np.flatnonzero(part_of == number) for number in found}
    rows: Rows = {"part": part_of, "reading": sum(theirs.get("reading", 0.0) for theirs in found.values())}
    if "question" in provides:
        rows |= {"questions": [""] * len(part_of), "answers": [[] for _ in part_of]}
    if "label" in provides:
        rows["label"] = np.full(part_of.shape, -1, np.int64)
    for number, theirs in found.items():
        prefix = f"{names[number]}/"
        ids = [prefix + name for name in theirs["id"]]
        told = theirs.get("problem", [f"image {name} cannot be read" for name in theirs["id"]])
        given = {**theirs, "key": theirs["key"] * len(names) + number, "id": ids, "problem": told}
        given.pop("reading", None)
        for name, values in given.items():
            if name in LISTS:
                column = rows.setdefault(name, [None] * len(part_of))
                for place, value in zip(places[number].tolist(), values, strict=True):
                    column[place] = value
            else:
                if name not in rows:
                    rows[name] = np.empty((len(part_of), *values.shape[1:]), values.dtype)
                rows[name][places[number]] = values
    return rows
