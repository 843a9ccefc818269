"""VQA accuracy against the formula of its page, written out, and hand-made cases of the official script's habits."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmjax.evaluate.answers import CONTRACTIONS, Scores, answers, normalize

# visualqa.org/evaluation names the steps; what the script makes of odd answers was worked out from its text.
NORMALIZED = {
    "Two": "2",
    "None": "0",
    "eleven": "eleven",
    "ten of ten": "10 of 10",
    "The cat": "cat",
    "a an the": "",
    "A": "",
    "dont": "don't",
    "don't": "don't",
    "wouldntve": "wouldntve",  # both apostrophes forgotten: the script does not know it
    "wouldn'tve": "wouldn't've",
    "yall'll": "y'all'll",
    "somebody'd": "somebodyd",  # the one that it has the wrong way round
    "somebodyd": "somebodyd",
    "lets": "lets",
    "Im": "im",  # known there with a capital alone, and compared in lower case
    "girl's": "girl's",
    "2:50 pm.": "2:50 pm",
    "3.5": "3.5",
    ".5": ".5",
    "5.": "5",
    "u.s.a.": "usa",
    "red/white": "red white",
    "red-white": "red white",
    "red - white": "red white",
    "100,978": "100978",
    "1,000 red-white": "1000 redwhite",  # a comma between digits: nothing becomes a space
    "red, white": "red white",
    "red,white": "red white",
    "a-b, c": "b c",
    "x-y -z": "xy z",  # a sign with a space on one side is dropped everywhere
    "what?": "what",
    "(yes)": "yes",
    "\n": "",
    ".." * 20: "." * 8,  # only the first 32 periods go
}


@pytest.mark.parametrize("answer", NORMALIZED)
def test_normalized(answer: str) -> None:
    assert normalize(answer) == NORMALIZED[answer]


def test_contractions_are_restored() -> None:
    assert len(CONTRACTIONS) == 114
    right = {short for short in CONTRACTIONS.values() if short != "somebodyd"}
    for short in right:
        for i in (i for i, sign in enumerate(short) if sign == "'"):
            assert normalize(short[:i] + short[i + 1 :]) == short
    assert {"can't", "won't", "o'clock", "'twas", "'ow's'at", "y'all'd've"} <= right


def by_the_page(answer: str, given: list[str]) -> float:
    """The mean over all sets of all people but one of min(people of the set who gave the answer / 3, 1)."""
    if len(set(given)) > 1:
        answer, given = normalize(answer), [normalize(other) for other in given]
    sets = list(itertools.combinations(given, len(given) - 1))
    return float(np.mean([min(sum(o.lower() == answer.lower() for o in people) / 3, 1) for people in sets]))


WORDS = st.sampled_from(["yes", "Yes", "no", "two", "2", "the dog", "dog", "dont", "don't", "red-white", "red white"])


@settings(max_examples=200)
@given(WORDS, st.lists(WORDS, min_size=2, max_size=10))
def test_accuracy_equals_the_published_formula(answer: str, people: list[str]) -> None:
    assert Scores(people).of(answer) == pytest.approx(by_the_page(answer, people))


@pytest.mark.parametrize(
    ("answer", "people", "expected"),
    [
        ("yes", ["yes"] * 10, 1.0),
        ("yes", ["yes"] * 4 + ["no"] * 6, 1.0),
        ("yes", ["yes"] * 3 + ["no"] * 7, 0.9),  # three times two others of three, seven times three of three
        ("yes", ["yes"] * 2 + ["no"] * 8, 0.6),
        ("yes", ["yes"] + ["no"] * 9, 0.3),
        ("maybe", ["yes"] * 5 + ["no"] * 5, 0.0),
        ("Two", ["2"] * 4 + ["3"] * 6, 1.0),
        ("2", ["two"] * 10, 0.0),  # all say the same: the script normalizes nothing
        ("TWO ", ["two"] * 10, 1.0),
        ("two", [" two\n"] * 10, 1.0),
        ("the cat", ["Cat."], 1.0),  # one answer alone
        ("2", ["two"], 1.0),
        ("dog", ["cat"], 0.0),
    ],
)
def test_accuracy_by_hand(answer: str, people: list[str], expected: float) -> None:
    assert Scores(people).of(answer) == pytest.approx(expected)


def metrics(rows: list[tuple[str, list[str], str]]) -> dict[str, float]:
    """Of (question, what people answered, what the model answers), in batches of two, with padding."""
    batches = []
    for start in range(0, len(rows), 2):
        part = rows[start : start + 2]
        fill = 3 - len(part)
        batches.append(
            {
                "mask": np.array([True] * len(part) + [False] * fill),
                "questions": [question for question, _, _ in part] + ["what is it?"] * fill,
                "answers": [people for _, people, _ in part] + [["padding"]] * fill,
                "answer": np.zeros((3, 5), np.int32),
                "said": [said for _, _, said in part] + ["wrong"] * fill,
            }
        )
    return dict(answers(lambda batch: {"answer": batch["said"]}, lambda: batches))


def test_accuracy_and_question_only_baseline() -> None:
    rows = [
        ("How many?", ["2"] * 10, "2"),
        ("how  many?", ["two"] * 4 + ["3"] * 6, "four"),
        ("How many?", ["3"] * 10, "3"),
        ("What color?", ["red"] * 10, "blue"),
        ("What color?", ["blue"] * 3 + ["green"] * 7, "blue"),
        ("", ["red"] * 10, "blue"),
        ("Why?", [], "because"),
    ]
    # "3" is right of the second and the third, "red" of the fourth, or "green" of the fifth.
    assert metrics(rows) == pytest.approx({"vqa/accuracy": (1 + 0 + 1 + 0 + 0.9) / 5, "vqa/question_only": (2 + 1) / 5})


def test_question_only_baseline_is_the_best_answer() -> None:
    rng = np.random.default_rng(0)
    words = ["yes", "Yes.", "no", "two", "2", "the dog", "dog"]
    rows = []
    for _ in range(40):
        people = rng.choice(words, 10 if rng.random() < 0.6 else 1).tolist()
        rows.append((str(rng.choice(["why?", "who?"])), people if rng.random() < 0.7 else people[:1] * 10, "x"))
    best = sum(
        max(sum(by_one_or_the_page(guess, people) for asked, people, _ in rows if asked == question) for guess in words)
        for question in ("why?", "who?")
    )
    assert metrics(rows)["vqa/question_only"] == pytest.approx(best / len(rows))


def by_one_or_the_page(answer: str, people: list[str]) -> float:
    return float(normalize(answer) == normalize(people[0])) if len(people) == 1 else by_the_page(answer, people)


def test_single_reference_answers() -> None:
    rows = [("is it?", ["yes"], "Yes"), ("is it?", ["no"], "yes"), ("is it?", ["no"], "no"), ("what?", ["cat"], "cat")]
    assert metrics(rows) == {"vqa/accuracy": 3 / 4, "vqa/question_only": 3 / 4}


def test_no_questions_gives_no_metric() -> None:
    assert metrics([("", [], "yes"), (" ", ["yes"], "yes")]) == {}
