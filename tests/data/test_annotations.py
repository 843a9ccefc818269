"""COCO's file of captions: read piece by piece as json reads it whole, and everything that may be wrong with one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmjax.data import json_items
from mmjax.data.annotations import read_annotations
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
    captions, ids = read_annotations(path).captions(np.array(keys, np.int64))
    assert len(ids) == len(list(captions))
    return [captions[i] for i in range(len(keys))]


@pytest.mark.parametrize("options", [{}, {"indent": 2}, {"ensure_ascii": False}, {"separators": (",", ":")}])
@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_read_piece_by_piece(options: Any, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_items, "CHUNK", chunk)
    path = write(tmp_path / "a.json", TREE, **options)
    found = read_annotations(path)
    assert found.names == {5: "5.jpg", 3: "3.jpg", 2: "2.jpg"} and found.images.tolist() == [3, 5, 3, 5, 99]
    text = {row["id"]: row["caption"] for row in TREE["annotations"]}
    assert captions_of(path, 2, 3, 5) == [[], [text[7], text[11]], [text[2], text[3]]]
    captions, ids = found.captions(np.array([3, 5]))
    assert ids.tolist() == [7, 11, 2, 3] and list(captions) == [text[n] for n in (7, 11, 2, 3)]


def rewritten(change: Callable[[dict[str, Any]], Any]) -> bytes:
    return json.dumps(change(json.loads(json.dumps(TREE)))).encode()


WHOLE = json.dumps(TREE).encode()


@pytest.mark.parametrize(("content", "hint"), [
    (b"", "not complete JSON"),
    (b"<html>404</html>", "not complete JSON"),
    (WHOLE[:-1], "not complete JSON"),
    (WHOLE[:300], "not complete JSON"),
    (WHOLE + b"x", "not complete JSON .expecting the end"),
    (WHOLE.replace(b"caption 7", b"caption \xff"), "not complete JSON .byte [0-9]+ is no UTF-8"),
    (WHOLE.decode().encode("utf-16"), "not complete JSON .byte 0 is no UTF-8"),
    (WHOLE[:-1] + b",}", "not complete JSON"),
    (WHOLE[:-2] + b",]}", "not complete JSON"),
    (b'{"images": ' + b"[" * 100_000, "not complete JSON"),
    (b"[1]", "not COCO's captions .TypeError: list in place of an object"),
    (b'"x"', "not COCO's captions"),
    (b"{}", "not COCO's captions .KeyError: 'images'"),
    (rewritten(lambda tree: {"images": tree["images"]}), "not COCO's captions .KeyError: 'annotations'"),
    (rewritten(lambda tree: tree | {"images": {}}), "not COCO's captions .TypeError: images is no list"),
    (rewritten(lambda tree: tree | {"annotations": "none"}), "not COCO's captions .TypeError: annotations is no list"),
    (rewritten(lambda tree: tree | {"images": [{"id": 2**64, "file_name": "a"}]}), "not COCO's captions .Overflow"),
    (rewritten(lambda tree: tree | {"annotations": [{"image_id": 2**64, "caption": "a"}]}), "not COCO's captions"),
    (rewritten(lambda tree: tree | {"images": [*tree["images"], {"id": 5, "file_name": "other.jpg"}]}),
     "two images have the id 5, 5.jpg and other.jpg"),
])  # fmt: skip
def test_a_broken_file_is_one_line(content: bytes, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=hint) as error:
        read_annotations(path).captions(np.array([5]))
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_a_file_that_is_missing_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file or directory; COCO's captions are expected there"):
        read_annotations(tmp_path / "captions.json")


def test_a_byte_order_mark_is_read_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + WHOLE)
    assert (
        captions_of(tmp_path / "a.json", 5) == captions_of(write(tmp_path / "b.json", TREE), 5) and not caplog.records
    )


def test_what_is_there_twice_is_taken_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    doubled = TREE | {name: TREE[name] + TREE[name][:2] for name in ("images", "annotations")}
    path = write(tmp_path / "a.json", doubled)
    assert captions_of(path, 2, 3, 5) == captions_of(write(tmp_path / "b.json", TREE), 2, 3, 5)
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        f"{path}: 2 images are named more than once and taken once",
        f"{path}: 2 captions are there more than once and taken once",
    ]


def test_captions_that_share_their_id_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"id": 1, "image_id": 5, "caption": "a"}, {"id": 1, "image_id": 5, "caption": "b"}]
    rows += [{"id": 1, "image_id": 3, "caption": "c"}, {"image_id": 3, "caption": "d"}, {"image_id": 3, "caption": "d"}]
    path = write(tmp_path / "a.json", TREE | {"annotations": rows})
    assert captions_of(path, 3, 5) == [["d", "d", "c"], ["a", "b"]]  # without ids, nothing tells that one is a copy
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"{path}: 3 captions share their id with another one; all are kept"]


def test_captions_that_are_no_text_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"id": n, "image_id": 5, "caption": text} for n, text in enumerate([None, "a", 7])]
    path = write(tmp_path / "a.json", TREE | {"annotations": rows})
    assert captions_of(path, 5) == [["a"]]
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"{path}: 2 captions are no text and left out"]
