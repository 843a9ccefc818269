"""Remembered tokens are those of the tokenizer, whatever was forgotten."""

import numpy as np
import pytest

from mmjax.data import Tokenizer, load_tokenizer, train_tokenizer
from mmjax.data.caption_cache import CaptionCache

TEXTS = [f"a {color} {shape} number {n}" for n in range(17) for color in ("red", "cyan") for shape in ("ring", "cube")]


@pytest.fixture(name="tokenizer", scope="module")
def made() -> Tokenizer:
    return load_tokenizer(train_tokenizer(TEXTS, 300))


@pytest.mark.parametrize("most_bytes", [1 << 20, 16 * 34])  # room for all, and for 16
def test_agrees_with_the_tokenizer(tokenizer: Tokenizer, most_bytes: int) -> None:
    known = CaptionCache(tokenizer, 13, most_bytes)
    rng = np.random.default_rng(5)
    for _ in range(11):
        texts = ["", "\ud800 half", *(TEXTS[i] for i in rng.integers(len(TEXTS), size=23))]
        seen = known.encode(texts)
        assert seen.dtype == np.int32 and np.array_equal(seen, tokenizer.encode(texts, 13))
    assert known.names.nbytes + known.ids.nbytes <= most_bytes


def test_each_text_is_tokenized_once(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    known, encode, asked = CaptionCache(tokenizer, 13), tokenizer.encode, []

    def counted(texts: list[str], length: int) -> np.ndarray:
        asked.extend(texts)
        return encode(texts, length)

    monkeypatch.setattr(tokenizer, "encode", counted)
    for epoch in range(3):
        for start in range(0, len(TEXTS), 7):
            known.encode(TEXTS[::-1][start : start + 7] if epoch else TEXTS[start : start + 7])
    assert sorted(asked) == sorted(TEXTS)
