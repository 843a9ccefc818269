import itertools
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from mmjax.data import Tokenizer, load_tokenizer, train_tokenizer
from mmjax.types import UserError

WORDS = itertools.product(("red", "green", "blue"), ("cat", "dog", "bird"), ("table", "grass", "roof"))
CAPTIONS = [f"a {color} {thing} on the {place}" for color, thing, place in WORDS]
PROTO = train_tokenizer(CAPTIONS, 400)
TOKENIZER = load_tokenizer(PROTO)


def test_special_tokens_have_their_ids() -> None:
    processor = sentencepiece.SentencePieceProcessor(model_proto=PROTO)
    assert (processor.pad_id(), processor.unk_id(), processor.bos_id(), processor.eos_id()) == (0, 1, 2, 3)
    assert processor.id_to_piece(4) == "<mask>"
    assert TOKENIZER.size == processor.get_piece_size() <= 400
    assert 4 in TOKENIZER.encode(["a red <mask> on the roof"], 17)


def test_training_is_deterministic_and_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    assert train_tokenizer(iter(CAPTIONS), 400) == PROTO
    assert capfd.readouterr() == ("", "")


def test_encode_pads_ends_and_cuts() -> None:
    ids = TOKENIZER.encode(["", "a red cat on the table", "dog " * 10_000], 23)
    assert ids.shape == (3, 23) and ids.dtype == np.int32
    assert ids[0].tolist() == [3] + [0] * 22
    expected = sentencepiece.SentencePieceProcessor(model_proto=PROTO).encode("a red cat on the table")
    assert ids[1].tolist() == (expected[:22] + [3] + [0] * 23)[:23]
    assert ids[2, -1] == 3 and (ids[2, :-1] > 4).all()
    assert TOKENIZER.encode([], 11).shape == (0, 11)


@given(st.text(max_size=29))
def test_any_text_encodes_without_unknown_and_comes_back(text: str) -> None:
    ids = TOKENIZER.encode([text], 401)
    assert 1 not in ids and 2 not in ids and (ids == 3).sum() == 1
    again = TOKENIZER.encode(TOKENIZER.decode(ids), 401)
    assert np.array_equal(again, ids) or "<mask>" in text or not text.isprintable()


@pytest.mark.parametrize("text", ["красный кот", "赤い猫", "قطة حمراء", "🐈", "a red cat on the table"])
def test_other_scripts_come_back_through_bytes(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode([text], 101)) == [text]


def test_a_lone_surrogate_is_encoded() -> None:
    assert 1 not in TOKENIZER.encode(["a cat \ud800"], 29)


def test_decode_stops_at_the_end_and_skips_what_is_no_token() -> None:
    ids = TOKENIZER.encode(["a red cat"], 13)
    beyond = ids.copy()
    beyond[ids == 0] = TOKENIZER.encode(["the dog"], 2)[0, 0]
    strange = np.concatenate([np.full((1, 1), TOKENIZER.size, np.int32), ids], axis=1)
    assert TOKENIZER.decode(beyond) == TOKENIZER.decode(strange) == ["a red cat"]


def test_only_so_many_captions_are_read() -> None:
    def endless() -> object:
        while True:
            yield from CAPTIONS

    import mmjax.data.text as text

    most, text.MAX_CAPTIONS = text.MAX_CAPTIONS, len(CAPTIONS)
    try:
        assert train_tokenizer(endless(), 400) == PROTO
    finally:
        text.MAX_CAPTIONS = most


@pytest.mark.parametrize("extra", ["word " * 10_000, "", "\n", "два\nряда", "\0", "\ud800"])
def test_odd_captions_do_not_hinder_training(extra: str) -> None:
    assert load_tokenizer(train_tokenizer([*CAPTIONS, extra], 400)).decode(TOKENIZER.encode(["a red cat"], 13))


@pytest.mark.parametrize(("captions", "vocabulary", "hint"), [
    ([], 400, "all empty"), (["", "  "], 400, "all empty"), (CAPTIONS, 100, "text.vocabulary: 100"),
])  # fmt: skip
def test_useless_training_input_is_one_line(captions: list[str], vocabulary: int, hint: str) -> None:
    with pytest.raises(UserError, match=hint) as error:
        train_tokenizer(captions, vocabulary)
    assert "\n" not in str(error.value)


def test_loading_from_a_file_and_its_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    with pytest.raises(UserError, match="No such file"):
        load_tokenizer(path)
    path.write_bytes(PROTO)
    assert isinstance(load_tokenizer(str(path)), Tokenizer) and load_tokenizer(path).proto == PROTO
    for broken in (b"", b"nonsense", PROTO[: len(PROTO) // 2]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"tokenizer\.model"):
            load_tokenizer(path)


def test_words_are_those_of_the_text_with_the_places_of_their_tokens() -> None:
    text = "a red cat, on the tablecloth! <mask> 赤い猫 roof"
    ids = TOKENIZER.encode([text], 61)[0]
    words = TOKENIZER.words(ids)
    assert [word for word, _ in words] == text.split(" ")
    places = [place for _, found in words for place in found]
    assert places == list(range(len(places))) and ids[len(places)] == 3
    assert TOKENIZER.words(TOKENIZER.encode([""], 5)[0]) == []
    assert [word for word, _ in TOKENIZER.words(np.array([0, 2, *ids[:2], 10_000]))] == ["a", "red"]
