"""Visual question answering on COCO images: VQAv2 and A-OKVQA."""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmjax.config import DataConfig
from mmjax.config.schema import require
from mmjax.data.coco import SPLITS
from mmjax.data.questions import Questions, class_answer, frequent_answers, read_questions
from mmjax.data.random_access import labels_of, read_examples
from mmjax.data.source import TEXT, Examples, Source, SourceSpec, image_feature
from mmjax.types import Feature, UserError

FILE = re.compile(r"(?:.*\D)?0*(\d+)\.(?:jpe?g|png)", re.IGNORECASE)  # ends with the image's id

logger = logging.getLogger(__name__)


def features(config: DataConfig) -> dict[str, Feature]:
    base = {"image": image_feature(config), "question": TEXT}
    return base | ({"label": Feature("label")} if config.num_answer_classes else {})


def check(config: DataConfig, field: str) -> None:
    """Raises UserError without question files."""
    for name in ("questions", "evaluation_questions"):
        require(
            bool(getattr(config, name)),
            f"{field}.{name}: vqa needs a file of questions below {field}.root, as in "
            f"--config.{field}.{name}=annotations/v2_OpenEnded_mscoco_train2014_questions.json",
        )


def open_vqa(config: DataConfig, training: bool, seed: int) -> Source:
    """Opens questions with answers and images, one example per question, in the order of the file.

    Images are in ROOT/SPLIT/, with names that end with COCO's id. With config.num_answer_classes, the label is the
    index of its most frequent answer among the most frequent training answers, or -1.

    Raises:
        UserError: where files are missing or invalid, or no image is found.
    """
    path = Path(config.root) / (config.questions if training else config.evaluation_questions)
    files = _images(Path(config.root), config.split(training))
    questions = read_questions(path)
    images = questions.images.tolist()
    chosen = np.array([index for index, image in enumerate(images) if image in files], np.int64)
    _log_left_out(path, questions, len(images) - len(chosen))
    if not len(chosen):
        raise UserError(f"{files.folder}: holds none of the images of the {len(images):,} questions in {path}")
    classes: tuple[str, ...] = ()
    labels = np.zeros(0, np.int64)
    if config.num_answer_classes:
        of_training = questions if training else read_questions(Path(config.root) / config.questions)
        classes = frequent_answers(of_training, config.num_answer_classes)
        labels = labels_of([class_answer(questions[index][2]) for index in chosen.tolist()], classes)
        if (unlabeled := np.mean(labels < 0)) > 0:
            logger.warning(
                "%s: %.1f%% of the questions have no label: their answers are not among the %s most frequent of "
                "training", path, 100 * unlabeled, f"{len(classes):,}"
            )  # fmt: skip

    def load(index: int) -> Examples:
        return {"image": files.path(images[chosen[index]]).read_bytes()}

    def columns(indices: list[int]) -> Examples:
        rows = [questions[index] for index in chosen[indices].tolist()]
        fields: Examples = {
            "id": [name for name, _, _ in rows],
            "questions": [question for _, question, _ in rows],
            "answers": [answers for _, _, answers in rows],
        }
        return fields | ({"label": labels[indices]} if config.num_answer_classes else {})

    def all_texts() -> Iterator[str]:
        for index in chosen.tolist():
            _, question, answers = questions[index]
            yield question
            yield from dict.fromkeys(answers)

    read = read_examples(np.arange(len(chosen)), load, columns, features(config))
    return Source("vqa", len(chosen), features(config), all_texts, read, classes=classes)


SOURCE = SourceSpec(features, open_vqa, check, settings=("questions", "evaluation_questions", "num_answer_classes"))


class _Images(dict[int, str]):
    """File names of a folder by id of the image."""

    def __init__(self, folder: Path) -> None:
        matches = ((FILE.fullmatch(name), name) for name in sorted(os.listdir(folder)))
        super().__init__({int(match[1]): name for match, name in matches if match})
        self.folder = folder

    def path(self, image: int) -> Path:
        return self.folder / self[image]


def _images(root: Path, split: str) -> _Images:
    names = SPLITS.get(split, (split,))
    for folder in (root / name for name in names):
        if folder.is_dir():
            return _Images(folder)
    raise UserError(
        f"{' or '.join(str(root / name) for name in names)}: no such folder; data.root must hold a folder of COCO's "
        "images for each split (data.train_split, data.evaluation_split)"
    )


def _log_left_out(path: Path, questions: Questions, missing: int) -> None:
    counts = {**questions.left_out, **({"whose image is missing": missing} if missing else {})}
    if counts:
        listed = ", ".join(f"{count:,} {what}" for what, count in counts.items())
        logger.warning("%s: questions are left out: %s", path, listed)
