"""BLEU, ROUGE-L and CIDEr-D against pycocoevalcap on the same tokens, and corner cases worked out by hand."""

import math
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmjax.evaluate.captions import bleu, cider, rouge_l

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # old escapes in its strings
    reference_bleu = pytest.importorskip("pycocoevalcap.bleu.bleu").Bleu
    reference_cider = pytest.importorskip("pycocoevalcap.cider.cider").Cider
    reference_rouge = pytest.importorskip("pycocoevalcap.rouge.rouge").Rouge

Corpus = tuple[list[list[str]], list[list[list[str]]]]


def check(corpus: Corpus) -> None:
    """That all metrics equal the reference's."""
    written, references = corpus
    results = {i: [" ".join(tokens)] for i, tokens in enumerate(written)}
    truths = {i: [" ".join(tokens) for tokens in others] for i, others in enumerate(references)}
    expected = reference_bleu(4).compute_score(truths, results, verbose=0)[0]
    assert bleu(written, references) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert rouge_l(written, references) == pytest.approx(reference_rouge().compute_score(truths, results)[0], rel=1e-12)
    expected = reference_cider().compute_score(truths, results)[0]
    assert cider(written, references) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def corpus(images: list[tuple[str, list[str]]]) -> Corpus:
    return [caption.split() for caption, _ in images], [[o.split() for o in others] for _, others in images]


# Few different words, so that there are matches of all lengths.
sentences = st.lists(st.sampled_from(("a", "the", "cat", "dog", "on", "sits", "red")), max_size=11)
images = st.tuples(sentences, st.lists(sentences.filter(len), min_size=1, max_size=5))


@settings(max_examples=100)
@given(st.lists(images, min_size=1, max_size=7))
def test_random_captions(drawn: list[tuple[list[str], list[list[str]]]]) -> None:
    check(([tokens for tokens, _ in drawn], [others for _, others in drawn]))


CORNERS = {
    "one image": [("a cat on a mat", ["a cat on the mat", "the cat"])],
    "identical": [("a cat on a mat", ["a cat on a mat"]), ("two dogs run far", ["two dogs run far", "dogs"])],
    "empty caption": [("", ["a cat"]), ("a dog runs", ["a dog runs", "dogs run"])],
    "all empty": [("", ["a cat"]), ("", ["a dog"])],
    "empty reference": [("a cat", [""]), ("", [""]), ("a dog", ["a dog", ""])],
    "nothing in common": [("red", ["a cat"]), ("blue green", ["a dog"])],
    "shorter than four words": [("cat", ["cat"]), ("a dog", ["a dog"])],
    "between two lengths": [("a b c d", ["a b c d e", "a b c"]), ("x y", ["x y z", "x"])],
    "repeated words": [("the the the the the", ["the cat on the mat", "the the"]), ("a a a a", ["a a b", "b a"])],
    "the same reference twice": [("a red cat", ["a red cat", "a red cat"]), ("a dog", ["a cat", "a cat"])],
}


@pytest.mark.parametrize("name", CORNERS)
def test_corner_cases(name: str) -> None:
    check(corpus(CORNERS[name]))


def test_perfect_captions_have_maximal_scores() -> None:
    written, references = corpus([("a cat on a mat", ["a cat on a mat"]), ("two dogs run far", ["two dogs run far"])])
    assert bleu(written, references) == pytest.approx([1, 1, 1, 1])
    assert rouge_l(written, references) == pytest.approx(1) and cider(written, references) == pytest.approx(10)


def test_bleu_by_hand() -> None:
    # Papineni et al. 2002, section 2.1: of seven times "the" two count; there is no pair of words.
    found = bleu(*corpus([("the the the the the the the", ["the cat is on the mat", "there is a cat on the mat"])]))
    assert found[0] == pytest.approx(2 / 7) and found[1] < 1e-7
    # Half as long as the reference: exp(1 - 2).
    assert bleu(*corpus([("a b", ["a b c d"])]))[0] == pytest.approx(math.exp(-1))


def test_rouge_l_by_hand() -> None:
    # Lin 2004, section 3: "police killed the gunman" and "police kill the gunman" share three of four words in order.
    assert rouge_l(*corpus([("police kill the gunman", ["police killed the gunman"])])) == pytest.approx(3 / 4)
    assert rouge_l(*corpus([("the gunman kill police", ["police killed the gunman"])])) == pytest.approx(2 / 4)


def test_cider_document_frequency_is_over_images() -> None:
    alone = corpus([("a cat", ["a cat"])])
    assert cider(*alone) == 0
    same = corpus([("a cat", ["a cat"])] * 3)
    assert cider(*same) == 0
