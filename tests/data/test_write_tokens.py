"""Writing the cache of visual tokens: what lies on the disk, going on after an end of any kind, and damage."""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from made_tokens import BATCH, KEY, SIZE, VIEWS, contents, encode, made_source, run, write
from packed_data import change

from mmjax import data
from mmjax.data.source import Examples, ReadSpec
from mmjax.types import UserError


def test_shards_hold_whole_batches_in_the_smallest_type_and_texts_once(cached_tokens: Path) -> None:
    from safetensors.numpy import load_file

    index = json.loads((cached_tokens / "index.json").read_text())
    assert index["key"] == KEY and index["complete"]
    assert (index["info"]["size"], index["info"]["num_augmentations"]) == (SIZE, VIEWS)
    counts = [shard["size"] for shard in index["shards"]]
    assert counts == [8] * 8 + [SIZE * VIEWS - 64]
    assert {path.name for path in cached_tokens.iterdir()} == {
        "index.json",
        *(shard["file"] for shard in index["shards"]),
    }
    shards = [load_file(cached_tokens / shard["file"]) for shard in index["shards"]]
    assert all(s["codes"].dtype == s["view"].dtype == np.uint8 for s in shards)
    assert [len(s["texts.ends"]) - 1 for s in shards] == [8, 8, 7, 0, 0, 0, 0, 0, 0]
    assert sum(len(s["texts"]) for s in shards[3:]) == 0


@pytest.mark.parametrize("values", [np.full((BATCH, 2), -1), np.zeros((BATCH, 2), np.float32)])
def test_an_encoding_other_than_counts_is_refused(values: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="codes"):
        write(tmp_path, encode=lambda image: {"codes": values})
    assert not json.loads((tmp_path / "index.json").read_text())["complete"]


@pytest.mark.parametrize("batches", [5, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 18))])
def test_killed_and_resumed_gives_the_same_bytes(batches: int, cached_tokens: Path, tmp_path: Path) -> None:
    program = f"""
import os, signal
calls = []
def killed(image):
    calls.append(1)
    if len(calls) == {batches}:
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(image)
write(Path(sys.argv[1]), encode=killed)
"""
    done = run(program, tmp_path / "train")
    assert done.returncode == -9, done.stderr
    left = {name: content for name, content in contents(tmp_path / "train").items() if not name.startswith(".")}
    assert not json.loads(left["index.json"])["complete"] and len(left) == 1 + (batches - 1) // 2
    with pytest.raises(UserError, match="not complete: visual tokens; run mmjax prepare, which resumes"):
        data.open_tokens(tmp_path / "train", KEY)
    calls = []

    def counted(image: np.ndarray) -> dict[str, np.ndarray]:
        calls.append(1)
        return encode(image)

    (tmp_path / "train" / ".000000000008.safetensors.1.tmp").write_bytes(b"half")
    (tmp_path / "train" / "000000000064.safetensors").write_bytes(b"named by no index")
    write(tmp_path / "train", encode=counted)
    assert len(calls) == 18 - (batches - 1) // 2 * 2
    assert contents(tmp_path / "train") == contents(cached_tokens)


def never(image: np.ndarray) -> dict[str, np.ndarray]:
    raise AssertionError("encoded again")


def test_what_is_done_is_not_done_again(copied_tokens: Path, cached_tokens: Path) -> None:
    write(copied_tokens, encode=never)
    assert contents(copied_tokens) == contents(cached_tokens)


DAMAGES = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"holds [\d,]+ bytes instead of [\d,]+"),
    "flipped": (lambda path: change(path, -1), "its bytes are not those that were written"),
    "missing": (lambda path: path.unlink(), "cannot be read: No such file"),
    "empty": (lambda path: path.write_bytes(b""), "holds 0 bytes instead of"),
}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("number", [0, 24, 64])
def test_a_damaged_shard_is_one_line_and_prepared_again(
    kind: str, number: int, copied_tokens: Path, cached_tokens: Path
) -> None:
    damage, message = DAMAGES[kind]
    path = copied_tokens / f"{number:012d}.safetensors"
    damage(path)
    with pytest.raises(UserError, match=f"^{path}: {message}.*; run mmjax prepare to repair it$"):
        data.open_tokens(copied_tokens, KEY)
    write(copied_tokens)
    assert contents(copied_tokens) == contents(cached_tokens)


def test_another_data_set_or_a_folder_of_something_else_is_one_line(copied_tokens: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds other visual tokens: size was 23 and now is 19"):
        write(copied_tokens, source=made_source(19))
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "cat.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="images: holds other files than visual tokens"):
        write(tmp_path / "images")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be written"):
        write(tmp_path / "file")


def test_a_data_set_that_ends_or_changes_is_one_line(tmp_path: Path) -> None:
    source = made_source()

    def ending(spec: ReadSpec) -> Iterator[Examples]:
        return itertools.islice(source.read(spec), 11)

    with pytest.raises(UserError, match="the data set ended after 44 of 69 images"):
        write(tmp_path / "a", source=dataclasses.replace(source, read=ending))

    def twice(spec: ReadSpec) -> Iterator[Examples]:
        for rows in source.read(spec):
            yield rows | {"key": np.where(rows["key"] == 10, 13, rows["key"])}

    with pytest.raises(UserError, match="the data set changed while it was encoded"):
        write(tmp_path / "b", source=dataclasses.replace(source, read=twice))
    with pytest.raises(UserError, match="not complete"):
        data.open_tokens(tmp_path / "b", KEY)


def test_unreadable_images_are_named_while_they_are_encoded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = made_source()
    write(tmp_path, source=source)
    assert source.num_corrupt == VIEWS
    assert "made: image number 31 cannot be read and is masked out" in caplog.text
