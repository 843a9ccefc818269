"""VQA accuracy, as in the official evaluation, and that of the best question-only baseline.

Antol et al. 2015, Goyal et al. 2017; by the text at visualqa.org/evaluation, and where that is unclear or differs, by
the script vqaEval.py.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

from mmjax.evaluate.rows import Mean, predicted
from mmjax.evaluate.spec import EvaluatorSpec
from mmjax.types import Batch, Predict, Results

NAMES = ("vqa/accuracy", "vqa/question_only")
ENOUGH = 3  # annotators with the same answer for full accuracy

ARTICLES = ("a", "an", "the")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {word: str(i) for i, word in enumerate(_NUMBERS)} | {"none": "0"}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'  # neither apostrophes ("girl's") nor colons ("2:50")
_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
MAX_PERIODS = 32  # the script passes re.UNICODE as the count of re.sub

_SHORT = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
# Each without any one of its apostrophes; and one that is reversed in the script.
CONTRACTIONS = {
    word[:i] + word[i + 1 :]: word for word in _SHORT.split() for i, sign in enumerate(word) if sign == "'"
} | {"somebody'd": "somebodyd"}


def answers(predict: Predict, batches: Callable[[], Iterable[Batch]]) -> Results:
    """Yields "vqa/accuracy" of the model's answers, and "vqa/question_only", both 0 to 1.

    The latter is the highest accuracy of any answers that depend only on the words of the question. Examples without a
    question or without reference answers are ignored.
    """
    mean = Mean()
    asked: dict[str, list[Scores]] = defaultdict(list)
    for batch, outputs in predicted(predict, batches):
        for question, given, answer in zip(batch["questions"], batch["answers"], outputs["answer"], strict=True):
            if question.strip() and given:
                scores = Scores(given)
                mean.add("vqa/accuracy", [scores.of(answer)])
                asked[" ".join(question.lower().split())].append(scores)
    for examples in asked.values():
        mean.add("vqa/question_only", [_best_total(examples) / len(examples)] * len(examples))
    yield from mean.metrics()


class Scores:
    """The accuracies of the possible answers to one question.

    With several reference answers: the mean over leaving out each of them of min(n / 3, 1), where n of the others are
    the same. If they differ, all answers are normalized; if all are the same, they are compared case-insensitively as
    they are. With one reference answer: 1 if it is the same, normalized.
    """

    def __init__(self, given: Sequence[str]) -> None:
        self.given = [_one_line(answer) for answer in given]
        self.normalize = str.lower if len(set(self.given)) == 1 < len(given) else normalize
        counts = Counter(self.normalize(answer).lower() for answer in self.given)
        self.by_answer = {answer: _accuracy(count, len(given)) for answer, count in counts.items()}

    def of(self, answer: str) -> float:
        return self.by_answer.get(self.normalize(_one_line(answer)).lower(), 0.0)


def normalize(answer: str) -> str:
    """Removes case, punctuation and articles, writes numbers up to ten as digits, and restores apostrophes."""
    # A sign next to a space anywhere is removed everywhere, and so is every sign if there is a comma between digits
    # anywhere; else it becomes a space.
    drop = bool(_COMMA.search(answer))
    text = answer
    for sign in PUNCTUATION:
        text = text.replace(sign, "" if drop or f"{sign} " in answer or f" {sign}" in answer else " ")
    words = _PERIOD.sub("", text, count=MAX_PERIODS).lower().split()
    words = [DIGITS.get(word, word) for word in words]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _accuracy(same: int, people: int) -> float:
    if people == 1:
        return 1.0
    without_one_of_them = same * min((same - 1) / ENOUGH, 1.0)
    without_another = (people - same) * min(same / ENOUGH, 1.0)
    return (without_one_of_them + without_another) / people


def _best_total(examples: Sequence[Scores]) -> float:
    """The highest total score of one answer to all examples of a question."""
    totals: dict[tuple[Callable[[str], str], str], float] = defaultdict(float)
    for scores in examples:
        for answer, score in scores.by_answer.items():
            totals[scores.normalize, answer] += score
    candidates = {answer for scores in examples for answer in scores.given}
    return max(
        sum(totals.get((how, how(answer).lower()), 0.0) for how in (normalize, str.lower)) for answer in candidates
    )


def _one_line(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


EVALUATOR = EvaluatorSpec(
    build=lambda config: answers,
    metrics=lambda config: NAMES,
    predictions=("answer",),
    fields=("image", "question"),
)
