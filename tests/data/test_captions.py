"""Captions in flat arrays: what goes in comes out, in memory and from a file."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mmjax.data.captions import Captions, map_captions, pack

TEXTS = st.text(st.characters(blacklist_categories=["Cs"]), max_size=7)


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), st.lists(TEXTS, max_size=3)), max_size=11))
def test_what_is_packed_is_told_again(examples: list[tuple[int, list[str]]]) -> None:
    captions = pack(examples)
    assert [(int(key), captions[i]) for i, key in enumerate(captions.keys)] == examples
    assert list(captions) == [text for _, texts in examples for text in texts]
    assert len(captions) == len(examples)


def test_all_captions_of_more_examples_than_are_taken_at_once() -> None:
    captions = pack((n, [str(n)] * (n % 3)) for n in range(101))
    assert list(captions) == [str(n) for n in range(101) for _ in range(n % 3)]


def test_halves_of_characters_become_question_marks() -> None:
    assert pack([(1, ["a\ud83d!"])])[0] == ["a?!"]


def test_a_file_is_mapped_and_not_read(tmp_path: Path) -> None:
    captions = pack([(7, ["one", "zwei", "три"]), (3, []), (5, [""])])
    save_file(vars(captions), tmp_path / "a.safetensors")
    mapped = map_captions(tmp_path / "a.safetensors")
    assert [mapped[i] for i in range(3)] == [["one", "zwei", "три"], [], [""]] and mapped.keys.tolist() == [7, 3, 5]
    base: np.ndarray | None = mapped.text
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap) and not mapped.text.flags.writeable


@pytest.mark.parametrize("content", [b"", b"short", b"\x08" + b"\0" * 7 + b"no JSON!", b"\x02" + b"\0" * 7 + b"{}"])
def test_another_file_is_an_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises((OSError, ValueError, KeyError)):
        map_captions(tmp_path / "a")


def test_a_million_captions_take_less_than_100_bytes_each() -> None:
    texts = ["a person stands near a table with many colorful objects"] * 5
    captions = pack((n, texts) for n in range(2000))
    held = sum(getattr(captions, name).nbytes for name in Captions.__dataclass_fields__)
    assert held < 1e6
