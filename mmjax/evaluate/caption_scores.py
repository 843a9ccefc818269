"""BLEU, ROUGE-L and CIDEr-D of captions, the values of the COCO caption evaluation (pycocoevalcap).

Each takes for every image the tokens of the caption that was written and those of what people wrote, at least one.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

LONGEST = 4  # words of an n-gram
BETA = 1.2  # of ROUGE-L: recall counts so much more than precision
SIGMA = 6.0  # of CIDEr-D: how far lengths may differ, in words

Tokens = Sequence[str]
NGrams = Counter[tuple[str, ...]]


def n_grams(tokens: Tokens) -> NGrams:
    """How often each sequence of one to four tokens is there."""
    return Counter(tuple(tokens[i : i + n]) for n in range(1, LONGEST + 1) for i in range(len(tokens) - n + 1))


def bleu(written: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> list[float]:
    """BLEU-1 to BLEU-4 of the whole corpus (Papineni et al. 2002), with the reference nearest in length, of two the
    shorter. Without a match of n words BLEU-n is tiny and not 0, as the COCO evaluation has it."""
    correct, guessed = np.zeros(LONGEST), np.zeros(LONGEST)
    length = reference_length = 0
    for tokens, others in zip(written, references, strict=True):
        most: NGrams = Counter()
        for other in others:
            most |= n_grams(other)
        for words, count in (n_grams(tokens) & most).items():
            correct[len(words) - 1] += count
        guessed += [max(len(tokens) - n, 0) for n in range(LONGEST)]
        length += len(tokens)
        reference_length += min((abs(len(other) - len(tokens)), len(other)) for other in others)[1]
    precisions = np.cumprod((correct + 1e-15) / (guessed + 1e-9)) ** (1 / np.arange(1, LONGEST + 1))
    ratio = (length + 1e-15) / (reference_length + 1e-9)
    return (precisions * (math.exp(1 - 1 / ratio) if ratio < 1 else 1.0)).tolist()


def rouge_l(written: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """The mean over images of ROUGE-L (Lin 2004), from the best precision and the best recall of any reference."""
    scores = []
    for tokens, others in zip(written, references, strict=True):
        # An empty caption counts as one empty word there.
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


def cider(written: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> float:
    """CIDEr-D (Vedantam et al. 2015), 0 to 10: how rare n-grams are is counted over the references given, in images.

    So the metric depends on the whole set, and of a single image it is 0.
    """
    counted = [[n_grams(other) for other in others] for others in references]
    frequency = Counter(words for others in counted for words in set().union(*others))
    images = math.log(len(references))

    def weigh(counts: NGrams) -> Iterator[tuple[dict[tuple[str, ...], float], float]]:
        """For each length of n-grams their weights, with the norm."""
        for n in range(1, LONGEST + 1):
            weights = {
                words: count * (images - math.log(max(1, frequency[words])))
                for words, count in counts.items()
                if len(words) == n
            }
            yield weights, math.sqrt(sum(weight**2 for weight in weights.values()))

    scores = []
    for tokens, others, counts in zip(written, references, counted, strict=True):
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
