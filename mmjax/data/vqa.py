"""Visual question answering on COCO images: VQAv2 and A-OKVQA."""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.config import DataConfig
from mmjax.config.schema import require
from mmjax.data.captions import Captions, pack
from mmjax.data.coco import image_folders
from mmjax.data.json_items import is_list, read_items, reading
from mmjax.data.random_access import labels_of, read_examples
from mmjax.data.source import TEXT, Examples, Source, SourceSpec, digest_of, image_feature
from mmjax.files import read_regular
from mmjax.types import Feature, UserError

FILE = re.compile(r"(?:.*\D)?0*(\d+)\.(?:jpe?g|png)", re.IGNORECASE)  # ends with the image's id
FOLDERS = "data.root must hold a folder of COCO's images for each split (data.train_split, data.evaluation_split)"
LAYOUT = (
    "VQAv2's 'questions' with question_id, image_id and question, or A-OKVQA's list with image_id, question and "
    "direct_answers"
)

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
    folder = image_folders(config.root, config.split(training), FOLDERS)[0]
    matches = ((FILE.fullmatch(name), name) for name in sorted(os.listdir(folder)))
    files = {int(match[1]): name for match, name in matches if match}
    questions = read_questions(path)
    images = questions.packed.keys.tolist()
    chosen = np.array([index for index, image in enumerate(images) if image in files], np.int64)
    left_out = questions.left_out | {"whose image is missing": len(images) - len(chosen)}
    if listed := ", ".join(f"{count:,} {what}" for what, count in left_out.items() if count):
        logger.warning("%s: questions are left out: %s", path, listed)
    if not len(chosen):
        raise UserError(f"{folder}: holds none of the images of the {len(images):,} questions in {path}")
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
        return {"image": read_regular(folder / files[images[chosen[index]]])}

    def columns(indices: list[int]) -> Examples:
        names, texts, answers = zip(*(questions[index] for index in chosen[indices].tolist()), strict=True)
        fields: Examples = {"id": list(names), "questions": list(texts), "answers": list(answers)}
        return fields | ({"label": labels[indices]} if classes else {})

    def all_texts() -> Iterator[str]:
        for index in chosen.tolist():
            _, question, answers = questions[index]
            yield question
            yield from dict.fromkeys(answers)

    read = read_examples(np.arange(len(chosen)), load, columns, features(config))
    digest = digest_of(chosen, classes, *vars(questions.packed).values())
    return Source("vqa", len(chosen), features(config), all_texts, read, classes=classes, digest=digest)


SOURCE = SourceSpec(features, open_vqa, check, settings=("questions", "evaluation_questions", "num_answer_classes"))


@dataclass(frozen=True)
class Questions:
    """The complete questions of a file.

    Attributes:
        packed: for each question its id, the question and its answers; keys are ids of images.
        left_out: number of incomplete questions by what they lack.
    """

    packed: Captions
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, index: int) -> tuple[str, str, list[str]]:
        """The id, the question and the answers."""
        name, question, *answers = self.packed[index]
        return name, question, answers


def read_questions(path: Path) -> Questions:
    """Reads a question file, for VQAv2 with the annotations file beside it.

    `v2_OpenEnded_mscoco_train2014_questions.json` has its answers in `v2_mscoco_train2014_annotations.json`. For
    A-OKVQA the answers are the direct ones, else the correct choice.

    Raises:
        UserError: for a file that is missing, not UTF-8, not JSON, cut off or of another layout, or has no answer.
    """
    left_out: Counter[str] = Counter()
    with reading(path, "a file of questions", LAYOUT, "data.questions and data.evaluation_questions name files"):
        packed = pack(_rows(path, left_out))
    if not len(packed):
        counts = "".join(f", {count:,} {what}" for what, count in left_out.items())
        raise UserError(f"{path}: has no question with an answer{counts}")
    return Questions(packed, dict(left_out))


def most_frequent(answers: list[str]) -> str:
    """The most frequent answer, the first of ties; "" without answers."""
    return Counter(answers).most_common(1)[0][0] if answers else ""


def class_answer(answers: list[str]) -> str:
    """The class of a question: its most frequent answer, in lower case and with single spaces."""
    return most_frequent([" ".join(answer.lower().split()) for answer in answers])


def frequent_answers(questions: Questions, count: int) -> tuple[str, ...]:
    """The `count` most frequent classes, ordered by frequency, then alphabetically."""
    counted = Counter(class_answer(questions[index][2]) for index in range(len(questions)))
    return tuple(sorted(counted, key=lambda answer: (-counted[answer], answer))[:count])


def _rows(path: Path, left_out: Counter[str]) -> Iterator[tuple[int, list[str]]]:
    """Yields rows of Questions.packed, and counts the incomplete questions."""
    name = "" if is_list(path) else "questions"
    vqa = _read_answers(path) if name else None  # VQAv2
    index = {key: row for row, key in enumerate(vqa.keys.tolist())} if vqa else {}
    for item in read_items(path, name):
        question, answers = item["question"], []
        if vqa is None:
            answers = _aokvqa_answers(item)
        elif (row := index.get(int(item["question_id"]))) is not None:
            answers = vqa[row]
        answers = [answer for answer in answers if answer.strip()]
        if not isinstance(question, str) or not question.strip():
            left_out["without a text"] += 1
        elif not answers:
            left_out["without an answer"] += 1
        else:
            yield int(item["image_id"]), [str(item["question_id"]), question.strip(), *answers]


def _aokvqa_answers(item: dict[str, Any]) -> list[str]:
    """The answers of an A-OKVQA question; test questions have none."""
    direct, correct = item.get("direct_answers"), item.get("correct_choice_idx")
    if direct:
        return [str(answer) for answer in direct]
    return [] if correct is None else [str(item["choices"][correct])]


def _read_answers(questions: Path) -> Captions:
    """VQAv2's answers to a file of questions; keys are ids of questions."""
    path = annotations_path(questions)
    layout = "'annotations' with question_id and answers"
    with reading(path, "VQAv2's answers", layout, f"it should hold the answers to {questions.name}"):
        return pack(
            (int(item["question_id"]), [str(answer["answer"]) for answer in item["answers"]])
            for item in read_items(path, "annotations")
        )


def annotations_path(questions: Path) -> Path:
    """The path of VQAv2's answers to a question file."""
    name = questions.name.replace("OpenEnded_", "").replace("questions", "annotations")
    return questions.with_name(name if name != questions.name else f"{questions.stem}_annotations{questions.suffix}")
