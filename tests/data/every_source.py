"""A small data set for each source, and batches of it."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from made_data import (
    config_dict,
    jpeg,
    moving,
    prepare_tfds,
    tone,
    write_classes,
    write_clips,
    write_coco,
    write_sounds,
    write_vqa,
)

from mmjax import data
from mmjax.config import Config
from mmjax.data import load_tokenizer, open_source, train_tokenizer
from mmjax.data.source import Source
from mmjax.types import Batch

TRAINING, EVALUATION = 23, 11  # examples
TOKENIZER = load_tokenizer(train_tokenizer([f"image {n} caption {i}" for n in range(50) for i in range(5)], 300))
NAMES = (
    "scenes",
    "questions",
    "coco_folder",
    "coco_packed",
    "coco_tfds",
    "clips_folder",
    "vqa",
    "classes_folder",
    "audio_folder",
    "tokens",
    "mixture",
    "lacking",
)


def make_roots(folder: Path) -> dict[str, Path]:
    """Where each source finds its examples; TFDS's are written by TFDS, in files of a few records."""
    content = {n: jpeg(n) for n in range(1, TRAINING + 1)}
    content[5] = b"broken"
    roots = {name: folder / name for name in NAMES if name not in ("questions", "lacking")}
    for path in roots.values():
        path.mkdir()
    write_coco(roots["coco_folder"], "train2017", content)
    write_coco(roots["coco_folder"], "val2017", {n: jpeg(n) for n in range(100, 100 + EVALUATION)})
    for split, count in (("train", TRAINING), ("validation", EVALUATION)):
        write_clips(roots["clips_folder"], split, {f"{n}": moving(3, n) for n in range(count)})
    training, evaluation = range(1, TRAINING + 1), range(100, 100 + EVALUATION)
    prepare_tfds(roots["coco_tfds"], training, evaluation)
    for split, numbers in (("train2017", training), ("val2017", evaluation)):
        write_coco(roots["vqa"], split, {n: jpeg(n) for n in numbers[::2]})
        rows = [(n - n % 2 + numbers[0] % 2, f"what is {n}?", [f"{n}", f"a {n}", f"{n}"]) for n in numbers]
        write_vqa(roots["vqa"], split, rows)
    for split, numbers in (("train", training), ("validation", evaluation)):
        write_sounds(roots["audio_folder"], split, {f"{n}.wav": tone(100.0 * n, 0.03 * n) for n in numbers})
        by_class = {f"class {c}": numbers[c::3] for c in range(3)}
        write_classes(roots["classes_folder"], split, by_class)
    whole = roots["mixture"]
    for split, numbers in (("train2017", training), ("val2017", evaluation)):
        write_coco(whole, split, {n: jpeg(n) for n in numbers})
    originals = config_dict("coco_folder", whole)
    data.write_packed(roots["coco_packed"], data.open_raw(originals.data), shard_size=7)
    for split in ("train", "evaluation"):
        source = open_source(originals.data, split == "train", 0)
        data.write_tokens(roots["tokens"] / split, {}, source, originals, split, encode, 4, 9)  # type: ignore[arg-type]
    return roots


def encode(image: np.ndarray) -> dict[str, np.ndarray]:
    """Some numbers that tell images apart."""
    return {"codes": np.rint((image[:, ::5, ::3, :].sum(-1) + 3) * 99).astype(np.int32)}


def of(name: str, roots: dict[str, Path], training: bool = True, **fields: Any) -> tuple[Source, Config]:
    """A source's examples, and the config they are of; those of "tokens" are encoded images of coco_folder, those
    of "questions" scenes with questions, those of "lacking" a mixture of parts without captions, questions or labels.
    """
    extra: dict[str, Any] = {"scenes": {"examples": TRAINING}} if name == "scenes" else {"flip": True}
    extra |= {"frames": 2} if name == "clips_folder" else {}
    if name == "mixture":
        some = {"source": "scenes", "scenes": {"examples": 7}, "flip": False, "evaluation_examples": 6}
        parts = {"coco": {"source": "coco_folder", "weight": 2.5}, "shapes": some}
        extra = {"size": 32, "mixture": parts, "flip": True}
    if name == "questions":
        extra = {"scenes": {"examples": TRAINING, "questions": True}}
    if name == "audio_folder":
        extra = {"audio": {"seconds": 0.1, "bins": 17}}
    if name == "vqa":
        files = {"questions": "train2017", "evaluation_questions": "val2017"}
        extra = {f: f"annotations/v2_OpenEnded_mscoco_{split}_questions.json" for f, split in files.items()}
        extra |= {"num_answer_classes": 7}
    if name == "lacking":
        asked = {"source": "scenes", "scenes": {"examples": 7, "questions": True}, "evaluation_examples": 4}
        images = {"source": "classes_folder", "root": str(roots["classes_folder"]), "evaluation_examples": 2}
        parts = {"coco": {"source": "coco_folder", "root": str(roots["mixture"])}, "asked": asked, "named": images}
        extra = {"size": 32, "mixture": parts}
    kind = {"tokens": "coco_folder", "questions": "scenes", "lacking": "mixture"}.get(name, name)
    config = config_dict(kind, roots.get(name, ""), **({"shuffle_buffer": 7} | extra | fields))
    if name == "tokens":
        return data.open_tokens(roots[name] / ("train" if training else "evaluation"), {}), config
    return open_source(config.data, training, config.seed), config


def take(batches: Iterator[Batch], count: int) -> list[Batch]:
    taken = list(itertools.islice(batches, count))
    batches.close()  # type: ignore[attr-defined]
    return taken


def same(first: Batch, second: Batch) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(first[k], second[k]) and first[k].dtype == second[k].dtype
        if isinstance(first[k], np.ndarray) else first[k] == second[k] for k in first
    )  # fmt: skip


def joined(parts: list[Batch]) -> Batch:
    """The global batch of the parts that processes have of it."""
    arrays = {k: np.concatenate([part[k] for part in parts]) for k, v in parts[0].items() if isinstance(v, np.ndarray)}
    return arrays | {k: [row for part in parts for row in part[k]] for k in parts[0].keys() - arrays.keys()}
