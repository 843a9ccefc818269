"""BLEU, ROUGE-L and CIDEr-D of captions, equal to the COCO caption evaluation (pycocoevalcap).

All take, for each image, the tokens of the generated caption and those of at least one reference caption.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

LONGEST = 4  # n-grams
BETA = 1.2  # of ROUGE-L: weight of recall relative to precision
SIGMA = 6.0  # of CIDEr-D's Gaussian length penalty, in words

Tokens = Sequence[str]
NGrams = Counter[tuple[str, ...]]


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
