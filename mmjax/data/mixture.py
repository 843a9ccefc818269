"""Weighted mixture of sources, each with its own epochs.

Training positions are divided into cycles of equal length, in which each component has a fixed number of slots, in an
order by seed and cycle. So the component of a position, and its position there, are a function of the position.
Evaluation concatenates the components.
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
from mmjax.config.checks import check_data
from mmjax.config.schema import require
from mmjax.data.source import (
    Examples,
    Features,
    ProcessShard,
    ReadSpec,
    Source,
    SourceSpec,
    array_fields,
    digest_of,
    find_source,
    open_source,
)
from mmjax.types import Feature, UserError

MAX_CYCLE = 4096  # slots; weights that would need more are rounded
MIN_CYCLE = 64  # slots, so that a batch takes few cycles
CACHED_CYCLES = 64
MAX_WEIGHT_RATIO = 1000  # of the sum of weights to that of a component
OPTIONAL = ("text", "question", "label")  # features that only some components need have
SAME = ("size", "frames", "frame_rate", "audio")  # fields of DataConfig that components share with the mixture
EXAMPLE = {"coco": {"source": "coco_folder", "weight": 3.0}}

Indices = Int64[np.ndarray, " b"]
Locate = Callable[[Indices], tuple[Indices, Indices]]  # (positions) -> components, and positions in their streams


def features(config: DataConfig) -> dict[str, Feature]:
    return common_features([find_source(part).features(part) for part in config.mixture.values()])


def check(config: DataConfig, field: str) -> None:
    """Raises UserError for invalid or incompatible components."""
    require(bool(config.mixture), f"{field}.mixture: needs at least one component, as in {EXAMPLE}")
    total = sum(part.weight for part in config.mixture.values())
    images = set()
    for name, part in config.mixture.items():
        at = f"{field}.mixture.{name}"
        require(
            part.source != config.source,
            f"{at}: is a mixture itself; name its components beside the others, in {field}.mixture",
        )
        for same in SAME:
            expected, value = getattr(config, same), getattr(part, same)
            needed = same != "audio" or "audio" in find_source(part, at).settings
            require(
                not needed or expected == value,
                f"{at}.{same}: must be that of all components, {field}.{same}={expected}, not {value}",
            )
        check_data(part, at)
        images.add(find_source(part).features(part).get("image"))
        require(
            len(images) == 1,
            f"{at}.source: {part.source} gives images of another shape than the component before it; "
            "a mixture is of one, of sounds or of images",
        )
        require(
            part.weight * MAX_WEIGHT_RATIO >= total,
            f"{at}.weight: {part.weight:g} is less than 1 in {MAX_WEIGHT_RATIO:,} of all, {total:g}; "
            "leave the component out, or raise it",
        )
    features(config)


def open_mixture(config: DataConfig, training: bool, seed: int) -> Source:
    """Opens the components and mixes them."""
    return mix({name: open_source(part, training, seed) for name, part in config.mixture.items()}, config, training)


def mix(sources: Mapping[str, Source], config: DataConfig, training: bool) -> Source:
    """Mixes sources by their names in config.mixture; the size is the sum of theirs.

    Ids are COMPONENT/ID, and keys are unique. In training each component yields what it would yield alone.

    Raises:
        UserError: where components have labels of different classes, or a feature in different shapes.
    """
    components = [
        replace(source, field=f"data.mixture.{name}", max_corrupt_fraction=config.mixture[name].max_corrupt_fraction)
        for name, source in sources.items()
    ]
    configs = [config.mixture[name] for name in sources]
    sizes = [source.size for source in components]
    if not training:
        sizes = [min(size, part.evaluation_examples or size) for size, part in zip(sizes, configs, strict=True)]
    slots = slots_of([part.weight for part in configs])
    shared, classes = common_features([source.features for source in components]), _classes(components)
    dropped = [array_fields(source.features).keys() - array_fields(shared).keys() for source in components]

    def read(spec: ReadSpec) -> Iterator[Examples]:
        locate = by_cycles(slots, spec.seed) if spec.training else concatenated(sizes)

        def shards_of(number: int) -> Iterator[ProcessShard]:
            for positions, shard in spec.shards():
                component, place = locate(positions)
                chosen = component == number
                before, count = np.count_nonzero(chosen[: shard.start]), np.count_nonzero(chosen[shard])
                if count:
                    yield place[chosen], slice(before, before + count)

        with ExitStack() as stack:
            streams: list[Any] = []
            for number, (source, part) in enumerate(zip(components, configs, strict=True)):
                shards, flip = functools.partial(shards_of, number), spec.training and part.flip
                stream = source.read(replace(spec, shards=shards, resize=part.resize, flip=flip))
                streams.append(stack.enter_context(closing(stream)))  # type: ignore[type-var]
            for positions in spec.positions():
                component, _ = locate(positions)
                found = {}
                for number in np.unique(component).tolist():
                    examples = next(streams[number], None)
                    if examples is None or len(examples["key"]) != np.sum(component == number):
                        raise UserError(f"{components[number].field}: ended too early; is the data set complete?")
                    found[number] = {k: v for k, v in examples.items() if k not in dropped[number]}
                yield _merge(component, found, list(sources), shared)

    def all_captions() -> Iterator[str]:
        # Interleaved: a tokenizer may use the first ones only.
        rows = itertools.zip_longest(*(source.all_captions() for source in components))
        return (text for row in rows for text in row if text is not None)

    digest = digest_of([(source.size, source.digest) for source in components])
    return Source(
        "mixture", sum(sizes), shared, all_captions, read, components=tuple(components), classes=classes, digest=digest
    )


def common_features(components: Sequence[Features]) -> dict[str, Feature]:
    """The features of a mixture: those of all components, and those of OPTIONAL that any has.

    Raises:
        UserError: where components disagree on a feature.
    """
    found: dict[str, Feature] = {}
    for name, feature in itertools.chain.from_iterable(features.items() for features in components):
        having = [features[name] for features in components if name in features]
        if name in OPTIONAL or len(having) == len(components):
            found.setdefault(name, feature)
            if feature != found[name]:
                raise UserError(f"data.mixture: {name} is {found[name]} in one component and {feature} in another")
    return {name: feature for name, feature in found.items() if not feature.of or feature.of in found}


def _classes(components: Sequence[Source]) -> tuple[str, ...]:
    labeled = [component for component in components if "label" in component.features]
    for component in labeled[1:]:
        if component.classes != labeled[0].classes:
            counts = f"{len(labeled[0].classes):,} and {len(component.classes):,}"
            raise UserError(
                f"{labeled[0].field}, {component.field}: have {counts} classes that are not the same ones, and a model "
                "has one set; take the labels of one component"
            )
    return labeled[0].classes if labeled else ()


def slots_of(weights: Sequence[float]) -> tuple[int, ...]:
    """Slots per cycle of each component, proportional to the weights.

    Exact for weights such as 3 and 1, or 0.7 and 0.3; others are rounded to MAX_CYCLE slots by largest remainders.
    """
    exact = [Fraction(repr(weight)) for weight in weights]
    shares = [weight / sum(exact) for weight in exact]
    scale = math.lcm(*(share.denominator for share in shares))
    length = scale * math.ceil(MIN_CYCLE / scale) if scale <= MAX_CYCLE else MAX_CYCLE
    slots = [int(share * length) for share in shares]
    largest = sorted(range(len(shares)), key=lambda i: slots[i] - shares[i] * length)
    for i in largest[: length - sum(slots)]:
        slots[i] += 1
    return tuple(slots)


def by_cycles(slots: Sequence[int], seed: int) -> Locate:
    """Locates training positions, by cycles."""
    length, counts = sum(slots), np.array(slots, np.int64)
    in_order = np.repeat(np.arange(len(slots)), counts)
    before = np.arange(length) - np.repeat(np.cumsum(counts) - counts, counts)

    @functools.lru_cache(maxsize=CACHED_CYCLES)
    def cycle(number: int) -> tuple[Int64[np.ndarray, " slots"], Int64[np.ndarray, " slots"]]:
        """The component of each slot, and its index among the slots of the component."""
        # 2: a random stream independent of orders, crops and captions.
        parts = np.random.default_rng((seed, number, 0, 2)).permutation(in_order)
        places = np.empty_like(before)
        places[np.argsort(parts, kind="stable")] = before
        return parts, places

    def locate(positions: Indices) -> tuple[Indices, Indices]:
        cycles, chosen = np.divmod(positions, length)
        part, place = np.empty_like(positions), np.empty_like(positions)
        for number in np.unique(cycles).tolist():
            here = cycles == number
            parts, places = cycle(number)
            part[here] = parts[chosen[here]]
            place[here] = number * counts[part[here]] + places[chosen[here]]
        return part, place

    return locate


def concatenated(sizes: Sequence[int]) -> Locate:
    """Locates evaluation positions, one component after the other."""
    ends = np.cumsum(sizes)

    def locate(positions: Indices) -> tuple[Indices, Indices]:
        part = np.searchsorted(ends, positions, side="right")
        return part, positions - (ends - sizes)[part]

    return locate


def _merge(component: Indices, found: Mapping[int, Examples], names: Sequence[str], features: Features) -> Examples:
    """Merges the examples of components; missing optional fields are blank."""
    seconds = sum(examples.get("read_seconds", 0.0) for examples in found.values())
    merged: Examples = {"component": component, "read_seconds": seconds}
    if "question" in features:
        merged |= {"questions": [""] * len(component), "answers": [[] for _ in component]}
    if "label" in features:
        merged["label"] = np.full(component.shape, -1, np.int64)
    for number, examples in found.items():
        places = np.flatnonzero(component == number)
        ids = [f"{names[number]}/{name}" for name in examples["id"]]
        problems = examples.get("problem", [f"image {name} cannot be read" for name in examples["id"]])
        key = examples["key"] * len(names) + number
        fields = {name: values for name, values in examples.items() if name != "read_seconds"}
        for name, values in (fields | {"key": key, "id": ids, "problem": problems}).items():
            if isinstance(values, np.ndarray):
                if name not in merged:
                    merged[name] = np.empty((len(component), *values.shape[1:]), values.dtype)
                merged[name][places] = values
            else:
                column = merged.setdefault(name, [None] * len(component))
                for place, value in zip(places.tolist(), values, strict=True):
                    column[place] = value
    return merged


SOURCE = SourceSpec(features, open_mixture, check, settings=("mixture",), needs_root=False, gives_clips=True)
