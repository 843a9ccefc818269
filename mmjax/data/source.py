"""Sources of examples, and opening the one of a config.

A source is a stream of positions: position p is example p % size of epoch p // size. The global batch of step k holds
the positions from k * batch on for any number of processes, so a run resumes at any step. Sources seek to a position
directly; coco_tfds skips the beginnings of a few files (mmjax/data/streams.py).
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float16, Int64

from mmjax import registry
from mmjax.config import DataConfig
from mmjax.types import Feature, InputStats, UserError

# Consecutive positions as read from a source, a dict of
#   image    float32 [b, y, x, c]  -1 (black) to 1 (white); clips [b, f, y, x, c]
#            or, from cached tokens, `codes` int32 [b, *grid] and other cached arrays
#   the source's other features, as arrays [b, ...]; see array_fields
#   mask     bool [b]              False: the image could not be read, its features are 0
#   key      int64 [b]             identifies the example in the source, from 0; seeds its augmentations
#   epoch    int64 [b]
#   id       list of b strings
#   captions list of b lists of strings
#   questions list of b strings    (with the feature "question") "" without one
#   answers  list of b lists of strings   (the same) all answers
#   label    int64 [b]             (with the feature "label") class, -1 without one
#   problem  list of b strings     (optional) why mask is False
#   read_seconds  float            (optional) seconds spent waiting for files
#   component     int64 [b]        of a mixture: index of the component
Examples = dict[str, Any]
RESERVED = ("mask", "key", "epoch", "id", "captions", "questions", "answers", "problem", "read_seconds", "component",
            "seed", "answer", "text_features")  # fmt: skip

# Fields of DataConfig that only some sources have.
SETTINGS = ("scenes", "audio", "emoji", "questions", "evaluation_questions", "num_answer_classes", "options", "mixture")

Features = Mapping[str, Feature]
TEXT = Feature("text")
DTYPES = {"image": "float32", "mask": "uint8", "boxes": "float32"}

# The positions of a source in a global batch, ascending, and the slice that a process reads.
ProcessShard = tuple[Int64[np.ndarray, " b"], slice]


@dataclass(frozen=True)
class ReadSpec:
    """Positions that a process reads, and preprocessing of images."""

    shards: Callable[[], Iterator[ProcessShard]]  # starts a pass; the process has a position in each global batch
    training: bool  # shuffled, with random crops and flips; otherwise in order, with center crops
    seed: int  # of the order and augmentations, at least 0
    size: int  # as in DataConfig, like the following
    resize: int
    flip: bool

    def positions(self) -> Iterator[Int64[np.ndarray, " b"]]:
        """Positions that the process reads of each global batch."""
        return (positions[shard] for positions, shard in self.shards())


@dataclass
class Source:
    """An open source."""

    name: str  # data.source of the config
    size: int  # examples per epoch
    features: Features  # "scene": captions follow the scene grammar
    all_captions: Callable[[], Iterator[str]]  # starts a pass over all captions, questions and answers
    read: Callable[[ReadSpec], Iterator[Examples]]  # the positions, in their batches
    # Features of texts, 0 after their tokens; None: not in batches.
    text_features: Callable[[Sequence[str]], Float16[np.ndarray, "b t d"]] | None = None
    num_read: int = 0  # images or clips so far
    num_corrupt: int = 0  # of them could not be read, counted in each epoch
    corrupt_ids: list[str] = dataclasses.field(default_factory=list)  # the first of those
    max_corrupt_fraction: float = 0.1  # as in DataConfig
    input_stats: InputStats = dataclasses.field(default_factory=InputStats)  # of training batches
    components: "tuple[Source, ...]" = ()  # of a mixture; corrupt images are counted for each
    field: str = "data"  # config field of its data
    classes: tuple[str, ...] = ()  # their names by label
    digest: str = ""  # of what its examples are, see digest_of; a run resumes with these alone; "": not known

    @property
    def captions_optional(self) -> bool:
        """Whether examples may lack a caption; their `text` is then all padding."""
        return "text" not in self.features or "question" in self.features or "label" in self.features


@dataclass(frozen=True)
class RawImage:
    """An encoded image with its captions, from which packed datasets are made."""

    key: int  # its id
    name: str  # of the file
    captions: Sequence[tuple[int, str]]  # pairs of id and text
    content: Callable[[], bytes]  # reads the file


@dataclass(frozen=True)
class Rejected:
    """An image that is left out, with the reason."""

    id: int
    file: str
    problem: str


@dataclass(frozen=True)
class RawSplit:
    """The raw images of a split."""

    size: int  # number of images
    read: Callable[[int, int], Iterator[RawImage]]  # (start, stop) -> the images of these positions
    captions: Callable[[], Iterator[tuple[int, list[str]]]]  # starts a pass over pairs of key and captions
    left_out: Sequence[Rejected]
    made_from: dict[str, Any]  # plain data that identifies the images without reading them


@dataclass(frozen=True)
class SourceSpec:
    """Specification of a kind of source."""

    features: Callable[[DataConfig], Features]  # of its examples, known before it is opened
    open: Callable[[DataConfig, bool, int], Source]  # (config, training, seed) -> the open source
    # (config, field of the data, such as "data") raises UserError for an invalid config.
    check: Callable[[DataConfig, str], None] = lambda config, field: None
    # (root, split) -> the encoded images; None: `mmjax prepare --to` cannot pack it.
    raw: Callable[[str, str], RawSplit] | None = None
    settings: tuple[str, ...] = ()  # those of SETTINGS that it uses
    needs_root: bool = True  # data.root must be set
    gives_clips: bool = False  # data.frames may exceed 1
    drawn: bool = False  # generated from the seed at their final size: no crops, flips or splits
    attribution: str = ""  # whom a model trained on it must name, for model cards and reports


def find_source(config: DataConfig, field: str = "data") -> SourceSpec:
    """The specification of a config's source; `field` is that of the data, for messages."""
    spec: SourceSpec = registry.find("source", config.source, f"{field}.source")
    return spec


def open_source(config: DataConfig, training: bool, seed: int) -> Source:
    """Opens the training or evaluation examples of a config's source.

    Args:
        config: the config's data.
        training: data.train_split or data.evaluation_split.
        seed: of generated examples.

    Raises:
        UserError: where the dataset is missing, incomplete or of another layout.
    """
    source = find_source(config).open(config, training, seed)
    check_features(source.features, f"data.source {config.source}")
    source.max_corrupt_fraction = config.max_corrupt_fraction
    return source


def digest_of(*parts: Any) -> str:
    """SHA-256 of keys and captions, as arrays or plain data, by which a resumed training recognizes its examples."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else json.dumps(part).encode())
    return digest.hexdigest()


def open_raw(config: DataConfig) -> dict[str, RawSplit]:
    """Opens the raw images of both splits of a config, for packing.

    Raises:
        UserError: as open_source, or where the source cannot be packed.
    """
    raw = find_source(config).raw
    if raw is None:
        packable = ", ".join(name for name, spec in registry.table("source").items() if spec.raw)
        raise UserError(f"data.source: mmjax prepare --to takes {packable}, not {config.source}")
    return {split: raw(config.root, split) for split in dict.fromkeys((config.train_split, config.evaluation_split))}


def image_feature(config: DataConfig) -> Feature:
    """A square image of data.size, or a clip where data.frames exceeds 1."""
    frames = (config.frames,) if config.frames > 1 else ()
    return Feature("image", (*frames, config.size, config.size, 3))


def captioned_images(config: DataConfig) -> dict[str, Feature]:
    """Features of captioned images or clips."""
    return {"image": image_feature(config), "text": TEXT}


def check_features(features: Features, where: str) -> None:
    """Raises UserError for an invalid feature; `where` names the source."""
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
    """Shape and dtype per example of each array of a batch: images, masks, boxes and other arrays."""
    fields: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    for name, feature in features.items():
        if feature.kind in ("image", "mask", "boxes", "array"):
            fields[name] = feature.shape, np.dtype(DTYPES.get(feature.kind, feature.dtype))
        if feature.kind == "boxes":
            fields[f"{name}_valid"] = feature.shape[:1], np.dtype(np.bool_)
    return fields


def process_shards(start: int, stop: int | None, batch: int, first: int, count: int) -> Iterator[ProcessShard]:
    """Yields the global batches from position `start` on, and the slice of a process in each.

    Args:
        stop: end of the positions; the last batch may be smaller; None: endless.
        batch: global batch size.
        first, count: slice of the process in a full batch.
    """
    for begin in itertools.count(start, batch):
        end = begin + batch if stop is None else min(begin + batch, stop)
        if end <= begin + first:
            return
        yield np.arange(begin, end), slice(first, min(first + count, end - begin))
