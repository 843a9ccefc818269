"""COCO's captions file, and everything that may be wrong with one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmjax.data.coco import read_captions
from mmjax.types import UserError

TREE: dict[str, Any] = {
    "info": {"year": 2017, "more": [1, 2.5, None, {"a": '}]\\"'}]},
    "licenses": [{"id": 1}],
    "images": [{"id": n, "file_name": f"{n}.jpg", "height": 2} for n in (5, 3, 2)],
    "annotations": [
        {"id": number, "image_id": image, "caption": f"caption {number} \u00e9 \U0001f600"}
        for number, image in ((11, 3), (2, 5), (7, 3), (3, 5), (5, 99))
    ],
}


def write(path: Path, tree: Any, **options: Any) -> Path:
    path.write_text(json.dumps(tree, **options), encoding="utf-8")
    return path


def captions_of(path: Path, *keys: int) -> list[list[str]]:
    _, captions = read_captions(path)
    return [[text for _, text in captions.get(key, [])] for key in keys]


@pytest.mark.parametrize("options", [{}, {"indent": 2}, {"ensure_ascii": False}, {"separators": (",", ":")}])
def test_captions_are_in_the_order_of_their_ids(options: Any, tmp_path: Path) -> None:
    names, captions = read_captions(write(tmp_path / "a.json", TREE, **options))
    text = {row["id"]: row["caption"] for row in TREE["annotations"]}
    assert names == {5: "5.jpg", 3: "3.jpg", 2: "2.jpg"}
    expected = {3: [7, 11], 5: [2, 3], 99: [5]}
    assert captions == {key: [(number, text[number]) for number in row] for key, row in expected.items()}


def rewritten(change: Callable[[dict[str, Any]], Any]) -> bytes:
    return json.dumps(change(json.loads(json.dumps(TREE)))).encode()


WHOLE = json.dumps(TREE).encode()


@pytest.mark.parametrize(("content", "value"), [
    (b"", "JSON"),
    (b"<html>404</html>", "JSON"),
    (WHOLE[:-1], "JSON"),
    (WHOLE[:300], "JSON"),
    (WHOLE + b"x", "JSON"),
    (WHOLE.replace(b"caption 7", b"caption \xff"), "UTF8"),
    (WHOLE.decode().encode("utf-16"), "JSON"),
    (WHOLE[:-1] + b",}", "JSON"),
    (WHOLE[:-2] + b",]}", "JSON"),
    (b'{"images": ' + b"[" * 1000, "JSON"),
    (b"[1]", "'images: "),
    (b'"x"', "'images: "),
    (b"{}", "'images: "),
    (rewritten(lambda tree: {"images": tree["images"]}), "'annotations: "),
    (rewritten(lambda tree: tree | {"images": {}}), "'images: "),
    (rewritten(lambda tree: tree | {"images": [7]}), "TypeError"),
    (rewritten(lambda tree: tree | {"annotations": "none"}), "'annotations: "),
    (rewritten(lambda tree: tree | {"annotations": [{"caption": "a"}]}), "'image_id'"),
    (rewritten(lambda tree: tree | {"annotations": [{"image_id": 5}]}), "'caption'"),
    (rewritten(lambda tree: tree | {"images": [{"id": 2**64, "file_name": "a"}]}), "Overflow"),
    (rewritten(lambda tree: tree | {"annotations": [{"image_id": 2**64, "caption": "a"}]}), "Overflow"),
    (rewritten(lambda tree: tree | {"annotations": [{"image_id": 5, "id": 2**64, "caption": "a"}]}), "Overflow"),
    (rewritten(lambda tree: tree | {"images": [*tree["images"], {"id": 5, "file_name": "other.jpg"}]}),
     "5, 5.jpg and other.jpg"),
])  # fmt: skip
def test_a_broken_file_is_one_line(content: bytes, value: str, tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=value) as error:
        read_captions(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_a_file_that_is_missing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file or directory"):
        read_captions(tmp_path / "captions.json")


def test_a_byte_order_mark_is_read_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + WHOLE)
    assert (
        captions_of(tmp_path / "a.json", 5) == captions_of(write(tmp_path / "b.json", TREE), 5) and not caplog.records
    )


def warned(caplog: pytest.LogCaptureFixture, path: Path, *values: str) -> None:
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == len(values)
    for line, value in zip(told, values, strict=True):
        assert line.startswith(f"{path}: ") and value in line


def test_what_is_repeated_is_taken_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    doubled = TREE | {name: TREE[name] + TREE[name][:2] for name in ("images", "annotations")}
    path = write(tmp_path / "a.json", doubled)
    assert captions_of(path, 2, 3, 5) == captions_of(write(tmp_path / "b.json", TREE), 2, 3, 5)
    warned(caplog, path, "2 images", "2 captions")


def test_captions_that_share_their_id_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"id": 1, "image_id": 5, "caption": "a"}, {"id": 1, "image_id": 5, "caption": "b"}]
    rows += [{"id": 1, "image_id": 3, "caption": "c"}, {"image_id": 3, "caption": "d"}, {"image_id": 3, "caption": "d"}]
    path = write(tmp_path / "a.json", TREE | {"annotations": rows})
    assert captions_of(path, 3, 5) == [["d", "d", "c"], ["a", "b"]]  # without ids, nothing tells that one is a copy
    warned(caplog, path, "3 captions")


def test_captions_that_are_not_strings_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"id": n, "image_id": 5, "caption": text} for n, text in enumerate([None, "a", 7])]
    path = write(tmp_path / "a.json", TREE | {"annotations": rows})
    assert captions_of(path, 5) == [["a"]]
    warned(caplog, path, "2 captions")
