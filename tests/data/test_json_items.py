"""Items of a list in a JSON file, as json reads them."""

import codecs
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmjax.data.json_items import is_list, read_items, reading
from mmjax.types import UserError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=7,
)


@given(st.dictionaries(st.sampled_from("abc"), st.lists(JSON, min_size=1, max_size=4), max_size=3), st.booleans())
def test_items_are_those_that_json_reads(tmp_path_factory: Any, tree: dict[str, list[Any]], mark: bool) -> None:
    path = tmp_path_factory.mktemp("items") / "a.json"
    path.write_bytes(mark * codecs.BOM_UTF8 + json.dumps(tree).encode())
    assert not is_list(path)
    for name, row in tree.items():
        assert list(read_items(path, name)) == row
    with pytest.raises(KeyError, match="other: "):
        list(read_items(path, "other"))


@given(st.lists(JSON, min_size=1, max_size=4), st.booleans())
def test_a_file_may_be_one_list(tmp_path_factory: Any, row: list[Any], mark: bool) -> None:
    path = tmp_path_factory.mktemp("items") / "a.json"
    path.write_bytes(mark * codecs.BOM_UTF8 + json.dumps(row).encode())
    assert is_list(path) and list(read_items(path, "")) == row


BROKEN = [b"", b"[1, 2", b"[1] 2", b"[1,]", b'[1, {"a": [1}]', b'["\xff"]', b"<html>", b"[" * 1000, b"7 8"]


@pytest.mark.parametrize("content", BROKEN)
def test_broken_files_are_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"not complete JSON \(.+\)") as error, reading(path, "rows", "a list", ""):
        list(read_items(path, ""))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ['{"a": {"b": [1]}}', '{"a": "x"}', '{"a": []}', "[1]", '"a"', "null"])
def test_what_is_not_a_list_with_items_is_an_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(KeyError, match="a: no list"):
        list(read_items(tmp_path / "a.json", "a"))
