"""Caption metrics of the COCO evaluation: BLEU, ROUGE-L, CIDEr-D and METEOR.

All are equal to pycocoevalcap's, and take, for each image, the tokens of the generated caption and those of at least
one reference caption. METEOR (Denkowski and Lavie 2014) is its authors' Java program from pycocoevalcap.
"""

import contextlib
import importlib.util
import logging
import math
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mmjax.evaluate.penn_treebank import tokenize
from mmjax.evaluate.rows import predicted
from mmjax.evaluate.spec import EvaluatorSpec
from mmjax.types import Batch, Evaluator, Predict, Results

logger = logging.getLogger(__name__)
LONGEST = 4  # n-grams
BETA = 1.2  # of ROUGE-L: weight of recall relative to precision
SIGMA = 6.0  # of CIDEr-D's Gaussian length penalty, in words
NAMES = (*(f"captions/bleu_{n}" for n in range(1, LONGEST + 1)), "captions/rouge_l", "captions/cider")
METEOR = "captions/meteor"

Tokens = Sequence[str]
NGrams = Counter[tuple[str, ...]]


def metric_names() -> tuple[str, ...]:
    """The metrics available on this machine: METEOR only if its program is installed."""
    return NAMES if missing_meteor() else (*NAMES, METEOR)


def captions() -> Evaluator:
    """An evaluator that yields captions/bleu_1 to bleu_4, rouge_l (0 to 1), cider (0 to 10) and meteor (0 to 1).

    The values are those of pycocoevalcap; METEOR needs it and Java. The model's `caption` is compared with all captions
    of the example. Examples without captions are ignored.
    """
    warned = False

    def evaluate(predict: Predict, batches: Callable[[], Iterable[Batch]]) -> Results:
        nonlocal warned
        generated, references = [], []
        for batch, outputs in predicted(predict, batches):
            for caption, others in zip(outputs["caption"], batch["captions"], strict=True):
                if others:
                    generated.append(tokenize(caption))
                    references.append([tokenize(other) for other in others])
        if not generated:
            return
        values = [*bleu(generated, references), rouge_l(generated, references), cider(generated, references)]
        yield from zip(NAMES, values, strict=True)
        try:
            yield METEOR, meteor(generated, references)
        except RuntimeError as error:
            if not warned:
                logger.warning("%s is left out: %s", METEOR, error)
            warned = True

    return evaluate


def n_grams(tokens: Tokens) -> NGrams:
    """The counts of all n-grams, n = 1 to 4."""
    return Counter(tuple(tokens[i : i + n]) for n in range(1, LONGEST + 1) for i in range(len(tokens) - n + 1))


def bleu(generated: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> list[float]:
    """Corpus BLEU-1 to BLEU-4 (Papineni et al. 2002).

    The reference length is the closest, of two the shorter. Without matching n-grams BLEU-n is tiny, not 0, as in the
    COCO evaluation.
    """
    correct, total = np.zeros(LONGEST), np.zeros(LONGEST)
    length = reference_length = 0
    for tokens, others in zip(generated, references, strict=True):
        most: NGrams = Counter()
        for other in others:
            most |= n_grams(other)
        for words, count in (n_grams(tokens) & most).items():
            correct[len(words) - 1] += count
        total += [max(len(tokens) - n, 0) for n in range(LONGEST)]
        length += len(tokens)
        reference_length += min((abs(len(other) - len(tokens)), len(other)) for other in others)[1]
    precisions = np.cumprod((correct + 1e-15) / (total + 1e-9)) ** (1 / np.arange(1, LONGEST + 1))
    ratio = (length + 1e-15) / (reference_length + 1e-9)
    return (precisions * (math.exp(1 - 1 / ratio) if ratio < 1 else 1.0)).tolist()


def rouge_l(generated: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """Mean ROUGE-L over images (Lin 2004), with the best precision and the best recall of any reference."""
    scores = []
    for tokens, others in zip(generated, references, strict=True):
        # As in the COCO evaluation, an empty caption is one empty word.
        matches = [(_longest_common_subsequence(tokens or [""], other or [""]), len(other) or 1) for other in others]
        precision = max(common for common, _ in matches) / (len(tokens) or 1)
        recall = max(common / length for common, length in matches)
        scores.append((1 + BETA**2) * precision * recall / (recall + BETA**2 * precision) if precision else 0.0)
    return float(np.mean(scores))


def _longest_common_subsequence(first: Tokens, second: Tokens) -> int:
    best = [0] * (len(second) + 1)
    for word in first:
        before = 0
        for i, other in enumerate(second):
            before, best[i + 1] = best[i + 1], before + 1 if word == other else max(best[i], best[i + 1])
    return best[-1]


def cider(generated: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """CIDEr-D (Vedantam et al. 2015), 0 to 10, with document frequencies from the given references.

    So it depends on the whole set, and is 0 for a single image.
    """
    counted = [[n_grams(other) for other in others] for others in references]
    frequency = Counter(words for others in counted for words in set().union(*others))
    images = math.log(len(references))

    def weigh(counts: NGrams) -> Iterator[tuple[dict[tuple[str, ...], float], float]]:
        """The TF-IDF weights of the n-grams of each length, with their norm."""
        for n in range(1, LONGEST + 1):
            weights = {
                words: count * (images - math.log(max(1, frequency[words])))
                for words, count in counts.items()
                if len(words) == n
            }
            yield weights, math.sqrt(sum(weight**2 for weight in weights.values()))

    scores = []
    for tokens, others, counts in zip(generated, references, counted, strict=True):
        ours, total = list(weigh(n_grams(tokens))), 0.0
        for other, other_counts in zip(others, counts, strict=True):
            penalty = math.exp(-((len(tokens) - len(other)) ** 2) / (2 * SIGMA**2))
            for (weights, norm), (their_weights, their_norm) in zip(ours, weigh(other_counts), strict=True):
                if norm and their_norm:
                    common = weights.keys() & their_weights.keys()
                    product = sum(min(weights[words], their_weights[words]) * their_weights[words] for words in common)
                    total += penalty * product / (norm * their_norm)
        scores.append(10 * total / LONGEST / len(others))
    return float(np.mean(scores))


def missing_meteor() -> str:
    """What METEOR lacks here, and how to install it; "" if nothing."""
    java = "" if shutil.which("java") else "Java (Debian's package default-jre-headless)"
    return " and ".join(filter(None, [java, "" if _jar() else "pycocoevalcap (pip install '.[captions]')"]))


def _jar() -> Path | None:
    found = importlib.util.find_spec("pycocoevalcap")
    folders = (found and found.submodule_search_locations) or ()
    jars = [Path(folder) / "meteor" / "meteor-1.5.jar" for folder in folders]
    return next((jar for jar in jars if jar.is_file()), None)


def meteor(written: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """METEOR 1.5 of the whole corpus, as in the COCO caption evaluation.

    Raises:
        RuntimeError: if the program is missing or fails.
    """
    jar = _jar()
    if missing_meteor() or jar is None:
        raise RuntimeError(f"METEOR needs {missing_meteor()}")
    # Decimal points and UTF-8 in any locale.
    java = ["java", "-Xmx2G", "-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US", "-jar", str(jar)]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr,
        subprocess.Popen(
            [*java, "-", "-", "-stdio", "-l", "en", "-norm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            encoding="utf-8",
        ) as process,
    ):
        requests, replies = process.stdin, process.stdout
        assert requests is not None and replies is not None

        def send(*parts: str) -> None:
            requests.write(" ||| ".join(parts) + "\n")
            requests.flush()

        try:
            statistics = []
            for one, others in zip(written, references, strict=True):
                send("SCORE", *map(_text, others), _text(one))
                statistics.append(replies.readline().strip())
            send("EVAL", *statistics)
            requests.close()
            *each, total = map(float, replies.read().split())
            if len(each) != len(statistics):
                raise ValueError(f"scored {len(each)} of {len(statistics)} captions")
            return total
        except (OSError, ValueError) as error:
            process.kill()
            process.wait()
            with contextlib.suppress(OSError):  # of what was not yet written
                requests.close()
            stderr.seek(0)
            why = stderr.readline().strip() or str(error)
            raise RuntimeError(f"METEOR's program failed: {why}") from error


def _text(tokens: Tokens) -> str:
    return " ".join(tokens).replace("|||", "")


EVALUATOR = EvaluatorSpec(
    build=lambda config: captions(),
    metrics=lambda config: metric_names(),
    predictions=("caption",),
    fields=("image", "text"),
)
