"""Questions about COCO's images: VQAv2's and A-OKVQA's files, classes of answers, and all that may be wrong."""

import itertools
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_data import config_dict, jpeg, make_image, write_coco, write_vqa

from mmjax.config import Config
from mmjax.data import evaluation_batches, load_tokenizer, open_source, train_tokenizer, training_batches
from mmjax.data.vqa import annotations_path, class_answer, most_frequent, read_questions
from mmjax.types import Batch, UserError

ROWS = [
    (3, "what color is it?", ["red", "Red", "blue", "red "]),
    (1, "how many?", ["2", "two", "2", "3"]),
    (3, "is it a dog?", ["no", "no", "yes", "no"]),
    (5, "what color is it?", ["blue"] * 4),
    (1, "is it a cat?", ["yes", "no"]),
]
TOKENIZER = load_tokenizer(train_tokenizer([text for _, q, answers in ROWS for text in (q, *answers)] * 9, 400))


def make(root: Path, training: Any = ROWS, evaluation: Any = ROWS[:3]) -> Path:
    write_coco(root, "train2014", {n: jpeg(n) for n in (1, 3, 5)})
    write_coco(root, "val2014", {n: jpeg(n) for n in (1, 3)})
    for split, rows in (("train2014", training), ("val2014", evaluation)):
        write_vqa(root, split, rows)
    return root


def vqa(root: Path, **fields: Any) -> Config:
    names = {f: f"annotations/v2_OpenEnded_mscoco_{s}_questions.json" for f, s in
             (("questions", "train2014"), ("evaluation_questions", "val2014"))}  # fmt: skip
    return config_dict("vqa", root, **{**names, **fields})


def training(config: Config, count: int, start: int = 0) -> list[Batch]:
    batches = training_batches(open_source(config.data, True, config.seed), TOKENIZER, config, start)
    taken = list(itertools.islice(batches, count))
    batches.close()  # type: ignore[attr-defined]
    return taken


def test_questions_are_those_of_the_files_with_their_images(tmp_path: Path) -> None:
    config = vqa(make(tmp_path), size=16, resize=16)
    source = open_source(config.data, False, 0)
    assert (source.name, source.size, tuple(source.features), source.classes) == ("vqa", 3, ("image", "question"), ())
    assert config.data.features == source.features
    (batch,) = evaluation_batches(source, TOKENIZER, config)
    assert batch["questions"] == [question for _, question, _ in ROWS[:3]] + ["", ""]
    assert batch["answers"] == [answers for *_, answers in ROWS[:3]] + [[], []] and batch["captions"] == [[]] * 5
    assert batch["id"] == ["7", "17", "27", "", ""] and batch["mask"].tolist() == [True] * 3 + [False] * 2
    assert TOKENIZER.decode(batch["question"])[:3] == [question for _, question, _ in ROWS[:3]]
    assert TOKENIZER.decode(batch["answer"]) == ["red", "2", "no", "", ""]  # the most frequent
    assert not np.any(batch["text"]) and not np.any(batch["answer"][3:]) and "label" not in batch
    # Their images are 3, 1 and 3, told by the blue channel.
    blue = np.rint((batch["image"][:3, :, :, 2].mean((1, 2)) + 1) * 127.5)
    assert np.abs(blue - [make_image(n)[0, 0, 2] for n in (3, 1, 3)]).max() < 3


def test_answers_are_drawn_anew_each_epoch_as_often_as_they_were_given(tmp_path: Path) -> None:
    config = vqa(make(tmp_path), batch=5)
    drawn: dict[str, Counter[str]] = {}
    for batch in training(config, 150):
        for question, image, text in zip(
            batch["questions"], batch["id"], TOKENIZER.decode(batch["answer"]), strict=True
        ):
            drawn.setdefault(f"{question} {image}", Counter())[text] += 1
    assert drawn["how many? 17"].keys() == {"2", "two", "3"} and abs(drawn["how many? 17"]["2"] - 75) < 25
    assert drawn["what color is it? 37"] == {"blue": 150}
    (again,), straight = training(config, 1, 7), training(config, 8)[7]
    assert all(np.array_equal(again[name], straight[name]) for name in ("answer", "question", "image"))


def test_the_most_frequent_training_answers_are_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    extra = [*ROWS, (1, "really?", ["No"]), (1, "sure?", ["yes", " YES"])]
    config = vqa(make(tmp_path, extra, [*ROWS[:4], (1, "and?", ["purple"])]), num_answer_classes=3)
    source = open_source(config.data, True, 0)
    # yes: 2 (one of them first of a tie), no: 2, blue and red and 2: one each.
    assert source.classes == ("no", "yes", "2") and tuple(source.features) == tuple(config.data.features) == (
        "image",
        "question",
        "label",
    )
    labels = {i: label for batch in training(config, 3) for i, label in zip(batch["id"], batch["label"], strict=True)}
    assert labels == {"7": -1, "17": 2, "27": 0, "37": -1, "47": 1, "57": 0, "67": 1}
    caplog.clear()
    evaluation = open_source(config.data, False, 0)
    assert evaluation.classes == source.classes
    (batch,) = evaluation_batches(evaluation, TOKENIZER, config)
    assert batch["label"].tolist() == [-1, 2, 0, -1, -1] and batch["label"].dtype == np.int32
    path, (left_out, unlabeled) = tmp_path / config.data.evaluation_questions, caplog.records
    assert left_out.getMessage().startswith(f"{path}: ") and "1 whose image" in left_out.getMessage()
    assert unlabeled.getMessage().startswith(f"{path}: 50.0% ") and " 3 most frequent" in unlabeled.getMessage()


def test_rows_that_fill_up_have_no_label(tmp_path: Path) -> None:
    config = vqa(make(tmp_path), num_answer_classes=2)
    (batch,) = evaluation_batches(open_source(config.data, False, 0), TOKENIZER, config)
    assert batch["label"][3:].tolist() == [-1, -1]


def test_a_text_tokenizer_learns_from_questions_and_answers(tmp_path: Path) -> None:
    found = list(open_source(vqa(make(tmp_path)).data, True, 0).all_captions())
    assert found == [text for _, question, answers in ROWS for text in (question, *dict.fromkeys(answers))]


def write(path: Path, tree: Any) -> Path:
    path.write_text(json.dumps(tree))
    return path


AOKVQA = [
    {"image_id": 3, "question_id": "abc", "question": "what is it?", "choices": ["a", "b"], "correct_choice_idx": 1,
     "direct_answers": ["dog", "cat", "dog"], "rationales": ["because"]},
    {"image_id": 1, "question_id": "def", "question": "why?", "choices": ["so", "thus"], "correct_choice_idx": 1},
    {"image_id": 1, "question_id": "ghi", "question": "when?", "choices": ["now", "then"], "direct_answers": []},
]  # fmt: skip


def test_questions_in_the_layout_of_aokvqa(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make(tmp_path)
    write(root / "annotations" / "a.json", AOKVQA)
    config = vqa(root, evaluation_questions="annotations/a.json")
    (batch,) = evaluation_batches(open_source(config.data, False, 0), TOKENIZER, config)
    assert batch["id"][:2] == ["abc", "def"] and batch["questions"][:3] == ["what is it?", "why?", ""]
    assert batch["answers"][:2] == [["dog", "cat", "dog"], ["thus"]]
    assert caplog.records[0].getMessage().endswith("a.json: questions are left out: 1 without an answer")


@pytest.mark.skipif("MMJAX_COCO_DIR" not in os.environ, reason="MMJAX_COCO_DIR names no COCO folder")
def test_real_questions_are_read() -> None:
    root = Path(os.environ["MMJAX_COCO_DIR"])
    config = vqa(root, questions="annotations/aokvqa_train2017.json",
                 evaluation_questions="annotations/aokvqa_val2017.json", num_answer_classes=5)  # fmt: skip
    for split, training in (("train2017", True), ("val2017", False)):
        tree = json.loads((root / "annotations" / f"aokvqa_{split}.json").read_text())
        source = open_source(config.data, training, 0)
        assert source.size == len(tree) and len(source.classes) == 5
        texts = list(source.all_captions())
        assert texts == [t for row in tree for t in (row["question"].strip(), *dict.fromkeys(row["direct_answers"]))]
    (batch, *_) = evaluation_batches(source, TOKENIZER, config)
    assert batch["mask"].all() and all(len(answers) == 10 for answers in batch["answers"])


def test_what_is_of_no_use_is_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        *ROWS,
        (1, "", ["a"]),
        (1, " \n", ["b"]),
        (1, "unanswered?", []),
        (1, "blank?", [" "]),
        (9, "absent?", ["c"]),
    ]
    source = open_source(vqa(make(tmp_path, rows)).data, True, 0)
    assert source.size == 5
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.endswith(
        "questions.json: questions are left out: 2 without a text, 2 without an answer, 1 whose image is missing"
    )


def test_a_broken_image_is_masked_out_and_its_question_stays(tmp_path: Path) -> None:
    config = vqa(make(tmp_path))
    (tmp_path / "val2014" / f"{3:012d}.jpg").write_bytes(b"broken")
    (batch,) = evaluation_batches(open_source(config.data, False, 0), TOKENIZER, config)
    assert batch["mask"].tolist() == [False, True, False, False, False] and batch["questions"][0] == ROWS[0][1]


QUESTIONS = "annotations/v2_OpenEnded_mscoco_train2014_questions.json"
ANSWERS = "annotations/v2_mscoco_train2014_annotations.json"


def _writing(name: str, content: str | bytes) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize(("breaking", "hint"), [
    (lambda root: (root / QUESTIONS).unlink(), "questions.json: No such file or directory; data.questions and"),
    (lambda root: (root / ANSWERS).unlink(), "annotations.json: No such file .*; it should hold the answers to v2_"),
    (_writing(QUESTIONS, "<html>"), r"questions.json: not complete JSON \(.*download the file again"),
    (_writing(QUESTIONS, '{"questions": [{"question_id": 1'), "questions.json: not complete JSON"),
    (_writing(ANSWERS, b"\xff"), r"annotations.json: not complete JSON"),
    (_writing(QUESTIONS, "{}"), r"questions.json: .*KeyError: 'questions: "),
    (_writing(QUESTIONS, "7"), r"questions.json: .*KeyError: 'questions: "),
    (_writing(QUESTIONS, '{"questions": {}}'), r"questions.json: .*KeyError: 'questions: "),
    (_writing(QUESTIONS, '{"questions": [{"question": "a?"}]}'), r"questions.json: .*KeyError: 'question_id'"),
    (_writing(QUESTIONS, '[{"image_id": 1, "question": "a?"}]'), "has no question with an answer, 1 without an answer"),
    (_writing(QUESTIONS, '[{"question": "a?", "question_id": 1, "direct_answers": ["b"]}]'), "KeyError: 'image_id'"),
    (_writing(QUESTIONS, '[{"question": "a?", "choices": ["b"], "correct_choice_idx": 1}]'), "IndexError"),
    (_writing(QUESTIONS, "[]"), "questions.json: .*KeyError: 'the file: "),
    (_writing(ANSWERS, "{}"), r"annotations.json: .*KeyError: 'annotations: "),
    (_writing(ANSWERS, '{"annotations": [{"question_id": 1}]}'), r"annotations.json: .*KeyError: 'answers'"),
    (_writing(ANSWERS, '{"annotations": []}'), r"annotations.json: .*KeyError: 'annotations: "),
    (lambda root: os.rename(root / "train2014", root / "x"), "train2017 or .*train2014: no such folder; data"),
    (lambda root: [path.unlink() for path in (root / "train2014").iterdir()],
     "train2014: holds none of the images of the 5 questions in .*questions.json"),
])  # fmt: skip
def test_a_broken_folder_is_one_line(breaking: Callable[[Path], object], hint: str, tmp_path: Path) -> None:
    root = make(tmp_path / "coco")
    breaking(root)
    with pytest.raises(UserError, match=hint) as error:
        open_source(vqa(root).data, True, 0)
    assert str(error.value).startswith(str(root)) and "\n" not in str(error.value)


def test_a_config_names_both_files() -> None:
    for field in ("questions", "evaluation_questions"):
        with pytest.raises(UserError, match=rf"data\.{field}: vqa needs a file of questions below data\.root"):
            vqa(Path("x"), **{field: ""})
    with pytest.raises(UserError, match=r"data\.num_answer_classes: .*-1"):
        vqa(Path("x"), num_answer_classes=-1)
    with pytest.raises(UserError, match=r"data\.frames: vqa .* 2 "):
        vqa(Path("x"), frames=2)


def test_answers_lie_beside_the_questions() -> None:
    names = {"v2_OpenEnded_mscoco_val2014_questions.json": "v2_mscoco_val2014_annotations.json",
             "OpenEnded_mscoco_val2014_questions.json": "mscoco_val2014_annotations.json",
             "mine.json": "mine_annotations.json"}  # fmt: skip
    for questions, annotations in names.items():
        assert annotations_path(Path("a") / questions) == Path("a") / annotations


def test_answers_alike_are_one() -> None:
    assert class_answer([" Two  Dogs\n"]) == "two dogs"
    assert most_frequent(["a", "b", "b", "a", "c"]) == "a" and most_frequent([]) == ""


def test_questions_are_held_in_few_bytes(tmp_path: Path) -> None:
    path = tmp_path / write_vqa(tmp_path, "train2014", [(n, f"question {n}?", ["yes"] * 10) for n in range(100)])
    questions = read_questions(path)
    assert len(questions) == 100 and questions[7] == ("77", "question 7?", ["yes"] * 10)
    assert questions.packed.text.nbytes + questions.packed.text_ends.nbytes < 100 * 160
