"""What a source of examples is, and how the one that a config names is opened.

A source is read as a stream of positions: position p is example p % size of epoch p // size. The global batch of step k
holds the positions from k * batch on, whatever the number of processes, so a run resumes at any step. All sources go to
a position at once; coco_tfds passes over the beginnings of the few files that it reads there (mmjax/data/streams.py).
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float16, Int64

from mmjax import registry
from mmjax.config import DataConfig
from mmjax.data.raw import RawSplit
from mmjax.types import Feature, InputStats, UserError

# Consecutive positions as read from a source, a dict of
#   image    float32 [b, y, x, c]  -1 (black) to 1 (white); clips [b, f, y, x, c]
#            or, from cached tokens, `codes` int32 [b, *grid] and what else was cached
#   the source's other features, as arrays [b, ...]; see array_fields
#   mask     bool [b]              False: the image could not be read, all its features are 0
#   key      int64 [b]             names the example among all of the source, from 0 up; random draws depend on it
#   epoch    int64 [b]
#   id       list of b strings
#   captions list of b lists of strings
#   questions list of b strings    (of a source with "question") "" where there is none
#   answers  list of b lists of strings   (the same) all that people gave, none where there is no question
#   label    int64 [b]             (of a source with "label") class, -1 where there is none
#   problem  list of b strings     (optional) what is wrong with an image or clip of mask False
#   read_seconds  float            (optional) seconds that were waited for files
#   component     int64 [b]        of a mixture: which of its components
Examples = dict[str, Any]
RESERVED = ("mask", "key", "epoch", "id", "captions", "questions", "answers", "problem", "read_seconds", "component",
            "seed", "answer", "text_features")  # fmt: skip

# Fields of DataConfig that only some sources have.
SETTINGS = ("scenes", "audio", "questions", "evaluation_questions", "num_answer_classes", "options", "mixture")

Features = Mapping[str, Feature]
TEXT = Feature("text")
DTYPES = {"image": "float32", "mask": "uint8", "boxes": "float32"}

# The positions of a global batch that are one source's, in rising order, and which of them the process reads.
ProcessShard = tuple[Int64[np.ndarray, " b"], slice]


@dataclass(frozen=True)
class ReadSpec:
    """Which positions one process reads, and how images are prepared.

    Attributes:
        shards: starts a pass over the global batches; the process reads at least one position of each.
        training: every epoch in another order, random crop and flip; otherwise in order, the center.
        seed: of the order and the random crops, from 0 up.
        size, resize, flip: as in `mmjax.config.DataConfig`.
    """

    shards: Callable[[], Iterator[ProcessShard]]
    training: bool
    seed: int
    size: int
    resize: int
    flip: bool

    def positions(self) -> Iterator[Int64[np.ndarray, " b"]]:
        """Those that the process reads, as many at a time as it reads of a global batch."""
        return (positions[own] for positions, own in self.shards())


@dataclass
class Source:
    """Examples to read.

    Attributes:
        name: as in the config, data.source.
        size: examples in an epoch.
        features: the named fields of its examples; "scene" where captions are of the scene grammar.
        all_captions: starts a pass over every caption, and over the questions and answers.
        read: the positions of a ReadSpec, as many at a time as that gives.
        text_features: of texts, float16 [b, t, d], zero after each text's tokens; None: a batch holds none.
        num_read: images or clips read so far.
        num_corrupt: how many of them could not be read (once an epoch for each such image).
        corrupt_ids: the first of those.
        max_corrupt_fraction: as in `mmjax.config.DataConfig`.
        input_stats: time spent on training batches.
        components: of a mixture, whose corrupt images are counted apart.
        field: where the config describes it.
        classes: names of the classes, by their label.
    """

    name: str
    size: int
    features: Features
    all_captions: Callable[[], Iterator[str]]
    read: Callable[[ReadSpec], Iterator[Examples]]
    text_features: Callable[[Sequence[str]], Float16[np.ndarray, "b t d"]] | None = None
    num_read: int = 0
    num_corrupt: int = 0
    corrupt_ids: list[str] = dataclasses.field(default_factory=list)
    max_corrupt_fraction: float = 0.1
    input_stats: InputStats = dataclasses.field(default_factory=InputStats)
    components: "tuple[Source, ...]" = ()
    field: str = "data"
    classes: tuple[str, ...] = ()

    @property
    def captions_optional(self) -> bool:
        """Whether examples may be without a caption, which then have no text at all, not even an empty one."""
        return "text" not in self.features or "question" in self.features or "label" in self.features


@dataclass(frozen=True)
class SourceSpec:
    """A kind of source, by the name that `data.source` has for it (see mmjax/data/sources.py).

    Attributes:
        features: the named fields of its examples, known before it is opened.
        open: opens the training (True) or the evaluation examples; the int is the config's seed.
        check: raises UserError for a config that is impossible; the text is the field of that data, such as "data".
        raw: the encoded images of a split below a root, where `mmjax prepare --to` can take them.
        settings: those of SETTINGS that its examples depend on.
        needs_root: data.root must be set.
        gives_clips: data.frames may be above 1.
        drawn: examples are made from the seed, at their final size: nothing is cropped, flipped or split.
    """

    features: Callable[[DataConfig], Features]
    open: Callable[[DataConfig, bool, int], Source]
    check: Callable[[DataConfig, str], None] = lambda config, field: None
    raw: Callable[[str, str], RawSplit] | None = None
    settings: tuple[str, ...] = ()
    needs_root: bool = True
    gives_clips: bool = False
    drawn: bool = False


def find_source(config: DataConfig, field: str = "data") -> SourceSpec:
    """The spec of the source that the config names; `field` is where the config is, for messages."""
    spec: SourceSpec = registry.find("source", config.source, f"{field}.source")
    return spec


def open_source(config: DataConfig, training: bool, seed: int) -> Source:
    """Opens the source that the config names: its training or its evaluation examples.

    Args:
        config: the config's data.
        training: opens data.train_split, otherwise data.evaluation_split.
        seed: of what is drawn; sources that are read do not use it.

    Raises:
        UserError: where the data set is missing, incomplete or of another layout.
    """
    source = find_source(config).open(config, training, seed)
    check_features(source.features, f"data.source {config.source}")
    source.max_corrupt_fraction = config.max_corrupt_fraction
    return source


def open_raw(config: DataConfig) -> dict[str, RawSplit]:
    """What the config's splits can be packed from, by their names in the config.

    Raises:
        UserError: as open_source, or where the source is none that can be packed.
    """
    raw = find_source(config).raw
    if raw is None:
        able = ", ".join(name for name, spec in registry.table("source").items() if spec.raw)
        raise UserError(f"data.source: mmjax prepare --to takes {able}, not {config.source}")
    return {split: raw(config.root, split) for split in dict.fromkeys((config.train_split, config.evaluation_split))}


def image_feature(config: DataConfig) -> Feature:
    """The image, or where data.frames is above 1 the clip, of a source that gives squares of data.size."""
    frames = (config.frames,) if config.frames > 1 else ()
    return Feature("image", (*frames, config.size, config.size, 3))


def captioned_images(config: DataConfig) -> dict[str, Feature]:
    """The features of a source of images, or clips, with captions."""
    return {"image": image_feature(config), "text": TEXT}


def check_features(features: Features, where: str) -> None:
    """Raises UserError for a feature that no batch can hold; `where` names the source."""
    for name, feature in features.items():
        if name in RESERVED:
            raise UserError(f"{where}: a feature may not be named {name!r}, which batches have for something else")
        if feature.of and getattr(features.get(feature.of), "kind", "") != "image":
            raise UserError(f"{where}: {name} is of {feature.of!r}, which is no image of the source")
        if feature.of and features[feature.of].of:
            raise UserError(f"{where}: {name} is of {feature.of!r}, which is itself of {features[feature.of].of!r}")
        if feature.kind in ("mask", "boxes") and not feature.of:
            raise UserError(
                f"{where}: {name} must name the image it is of, as in Feature({feature.kind!r}, of='image')"
            )


def array_fields(features: Features) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type, without the batch, of the arrays that hold the images, masks, boxes and other arrays."""
    fields: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    for name, feature in features.items():
        if feature.kind in ("image", "mask", "boxes", "array"):
            fields[name] = feature.shape, np.dtype(DTYPES.get(feature.kind, feature.dtype))
        if feature.kind == "boxes":
            fields[f"{name}_valid"] = feature.shape[:1], np.dtype(np.bool_)
    return fields


def process_shards(start: int, stop: int | None, batch: int, first: int, count: int) -> Iterator[ProcessShard]:
    """The global batches from `start` on, and in each the `count` positions of one process, from the `first` on.

    Args:
        stop: the position after the last one, which cuts the last batch short; None: endless.
        batch: positions in a global batch.
    """
    for begin in itertools.count(start, batch):
        end = begin + batch if stop is None else min(begin + batch, stop)
        if end <= begin + first:
            return
        yield np.arange(begin, end), slice(first, min(first + count, end - begin))


def epoch_order(spec: ReadSpec, size: int, epoch: int) -> Int64[np.ndarray, "{size}"]:
    """Which of `size` examples is at each place of an epoch: a permutation that follows from the seed and the epoch."""
    return np.random.default_rng((spec.seed, epoch)).permutation(size) if spec.training else np.arange(size)
