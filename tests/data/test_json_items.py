"""JSON read an item at a time, as json reads it whole."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mmjax.data import json_items
from mmjax.data.json_items import NotJSON, items

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=7,
)


@given(st.dictionaries(st.text(max_size=5), st.lists(JSON, min_size=1, max_size=4), max_size=4), st.integers(1, 13))
@example({"": [0.0, -2.5e-9, [1e300]]}, 1)  # cut off, "0." has a number in it
def test_items_are_those_that_json_reads(tmp_path_factory: Any, tree: dict[str, list[Any]], chunk: int) -> None:
    path = tmp_path_factory.mktemp("items") / "a.json"
    path.write_text(json.dumps(tree), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_items, "CHUNK", chunk)
        found = list(items(path))
    assert found == [(name, item) for name, row in tree.items() for item in [None, *row]]


@given(st.lists(JSON, max_size=4), st.integers(1, 13))
def test_a_file_may_be_one_list(tmp_path_factory: Any, row: list[Any], chunk: int) -> None:
    path = tmp_path_factory.mktemp("items") / "a.json"
    path.write_text(json.dumps(row), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_items, "CHUNK", chunk)
        assert list(items(path)) == [(None, None), *((None, item) for item in row)]


@pytest.mark.parametrize("content", [b"", b"[1, 2", b"[1] 2", b"[1,]", b'{"a": [1}', b'["\xff"]', b"[" * 100_000])
def test_what_is_no_json_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(NotJSON) as error:
        list(items(tmp_path / "a.json"))
    assert "\n" not in str(error.value)


def test_what_must_be_a_list_is_one(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": {}, "b": 7}')
    assert list(items(tmp_path / "a.json")) == []
    with pytest.raises(TypeError, match="b is no list"):
        list(items(tmp_path / "a.json", ("b",)))
