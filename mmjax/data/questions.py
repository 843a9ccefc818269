"""Question files of VQAv2 and A-OKVQA."""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from mmjax.data.captions import Captions, pack
from mmjax.data.json_items import NotJSON, is_list, read_items
from mmjax.types import UserError

EXPECTED = (
    "expected are VQAv2's 'questions' with question_id, image_id and question, or A-OKVQA's list with image_id, "
    "question and direct_answers"
)

logger = logging.getLogger(__name__)


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

    @property
    def images(self) -> Int64[np.ndarray, " n"]:
        return self.packed.keys

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
    try:
        packed = pack(_rows(path, left_out))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; data.questions and data.evaluation_questions name files") from error
    except NotJSON as error:
        raise UserError(f"{path}: not complete JSON ({error}); download the questions again") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise UserError(f"{path}: not a file of questions ({type(error).__name__}: {error}); {EXPECTED}") from error
    if not len(packed):
        counts = "".join(f", {count:,} {what}" for what, count in left_out.items())
        raise UserError(f"{path}: has no question with an answer{counts}")
    return Questions(packed, dict(left_out))


def normalized(answer: str) -> str:
    """Lowercases an answer and normalizes its spaces."""
    return " ".join(answer.lower().split())


def most_frequent(answers: list[str]) -> str:
    """The most frequent answer, the first of ties; "" without answers."""
    return Counter(answers).most_common(1)[0][0] if answers else ""


def class_answer(answers: list[str]) -> str:
    """The class of a question: its most frequent normalized answer."""
    return most_frequent([normalized(answer) for answer in answers])


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


def _read_answers(path: Path) -> Captions:
    """VQAv2's answers; keys are ids of questions."""
    other = annotations_path(path)

    def row(item: dict[str, Any]) -> tuple[int, list[str]]:
        return int(item["question_id"]), [str(answer["answer"]) for answer in item["answers"]]

    try:
        return pack(map(row, read_items(other, "annotations")))
    except OSError as error:
        raise UserError(f"{other}: {error.strerror}; it should hold the answers to {path.name}") from error
    except NotJSON as error:
        raise UserError(f"{other}: not complete JSON ({error}); download the answers again") from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(
            f"{other}: not VQAv2's answers ({type(error).__name__}: {error}); expected are 'annotations' with "
            "question_id and answers"
        ) from error


def annotations_path(questions: Path) -> Path:
    """The path of VQAv2's answers to a question file."""
    name = questions.name.replace("OpenEnded_", "").replace("questions", "annotations")
    return questions.with_name(name if name != questions.name else f"{questions.stem}_annotations{questions.suffix}")
