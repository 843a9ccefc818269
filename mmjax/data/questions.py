"""Files of questions about COCO's images: VQAv2's two, and A-OKVQA's one."""

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
    """All questions of a file that have a text and an answer.

    Attributes:
        packed: of each question a row of texts, its id, itself and its answers; the key is the image's id.
        left_out: how many others there are, by what is wrong with them.
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
    """Reads a file of questions, and VQAv2's annotations beside it.

    `v2_OpenEnded_mscoco_train2014_questions.json` has its answers in `v2_mscoco_train2014_annotations.json`. Of
    A-OKVQA's, the answers are the direct ones, and where there are none the correct choice.

    Raises:
        UserError: for a file that is missing, no UTF-8, no JSON, cut off or of another kind, or without any answer.
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
        told = "".join(f", {count:,} {what}" for what, count in left_out.items())
        raise UserError(f"{path}: has no question with an answer{told}")
    return Questions(packed, dict(left_out))


def normalized(answer: str) -> str:
    """In small letters, with one space between words: answers alike are one class."""
    return " ".join(answer.lower().split())


def most_frequent(answers: list[str]) -> str:
    """Of answers that are there equally often, the first; of none an empty one."""
    return Counter(answers).most_common(1)[0][0] if answers else ""


def to_classify(answers: list[str]) -> str:
    """The answer that makes a question's class."""
    return most_frequent([normalized(answer) for answer in answers])


def frequent_answers(questions: Questions, count: int) -> tuple[str, ...]:
    """The answers, one of each question, that most questions have, the most frequent first, and then by letters."""
    counted = Counter(to_classify(questions[index][2]) for index in range(len(questions)))
    return tuple(sorted(counted, key=lambda answer: (-counted[answer], answer))[:count])


def _rows(path: Path, left_out: Counter[str]) -> Iterator[tuple[int, list[str]]]:
    """The rows of Questions.packed."""
    given, places = None, {}
    name = "" if is_list(path) else "questions"
    if name:
        given = _answers(path)
        places = {key: place for place, key in enumerate(given.keys.tolist())}
    for item in read_items(path, name):
        question, answers = item["question"], []
        if given is None:
            answers = _of_choices(item)
        elif (place := places.get(int(item["question_id"]))) is not None:
            answers = given[place]
        answers = [answer for answer in answers if answer.strip()]
        if not isinstance(question, str) or not question.strip():
            left_out["without a text"] += 1
        elif not answers:
            left_out["without an answer"] += 1
        else:
            yield int(item["image_id"]), [str(item["question_id"]), question.strip(), *answers]


def _of_choices(item: dict[str, Any]) -> list[str]:
    """The answers of a question of A-OKVQA's; its test questions have none."""
    direct, correct = item.get("direct_answers"), item.get("correct_choice_idx")
    if direct:
        return [str(answer) for answer in direct]
    return [] if correct is None else [str(item["choices"][correct])]


def _answers(path: Path) -> Captions:
    """The answers of VQAv2's annotations, by the question's id."""
    other = annotations_of(path)

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


def annotations_of(questions: Path) -> Path:
    """Where VQAv2 has the answers of a file of questions."""
    name = questions.name.replace("OpenEnded_", "").replace("questions", "annotations")
    return questions.with_name(name if name != questions.name else f"{questions.stem}_annotations{questions.suffix}")
