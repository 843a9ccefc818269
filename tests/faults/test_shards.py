"""Prepared shards whose index is damaged, and files of data sets that never end or may not be read."""

import dataclasses
import functools
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_data import config_dict, jpeg, moving, tone, write_clips, write_coco, write_sounds
from special_files import ENDLESS, make_loop

from mmjax.config import Config
from mmjax.data import evaluation_batches, load_tokenizer, open_raw, open_source, train_tokenizer, write_packed
from mmjax.data.packed import folder_of, make_record
from mmjax.data.source import RawImage, Rejected
from mmjax.files import read_regular
from mmjax.types import UserError

TOKENIZER = load_tokenizer(train_tokenizer([f"image {n} caption {n}" for n in range(10)], 300))


def set_in(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(index: dict[str, Any]) -> None:
        *parents, last = path
        node = functools.reduce(lambda node, key: node[key], parents, index)
        node[last] = value

    return change


def without_a_split(index: dict[str, Any]) -> None:
    del index["key"]["splits"]["train"]


def without_a_shard(index: dict[str, Any]) -> None:
    index["shards"] = [shard for shard in index["shards"] if shard["part"] != "train"]


def without_captions(index: dict[str, Any]) -> None:
    index["shards"] = [shard for shard in index["shards"] if shard["part"] != "train.captions"]


DAMAGES = [
    *(set_in("shards", 0, name, value=value) for name in ("start", "size", "bytes") for value in ("7", None, [1], -1)),
    set_in("shards", 0, "file", value="../other"), set_in("shards", 0, "part", value=None),
    set_in("shards", 0, "part", value="other"),
    *(set_in("shards", 0, "info", value=value) for value in (None, [], {}, {"examples": "3", "rejected": []})),
    set_in("shards", 0, "info", "examples", value=2), set_in("shards", 0, "info", "examples", value=10**12),
    set_in("shards", 0, "info", "rejected", value=[{"id": 1}]),
    *(set_in(name, value=value) for name in ("shards", "key", "info") for value in (None, 7, [None], {"a": [1]})),
    set_in("complete", value="yes"), set_in("key", "resize", value="x"), set_in("key", "splits", value=[]),
    set_in("info", "left_out", value=7), without_a_split, without_a_shard, without_captions,
]  # fmt: skip
CONTENTS = [b"[" * 100_000, b"9" * 5_000, b"", b"\xff\xfe", b"null", b"[]"]


@pytest.fixture(scope="module", name="coco")
def small_coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    for split in ("train2017", "val2017"):
        write_coco(root, split, {number: jpeg(number) for number in range(1, 6)})
    return root


@pytest.fixture(name="packed")
def small_packed(coco: Path, tmp_path: Path) -> Path:
    write_packed(tmp_path, open_raw(config_dict("coco_folder", coco).data), shard_size=3)
    return tmp_path


def everything(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder_of(root).glob("mmjax_coco-*")}


def test_a_damaged_index_is_told_or_written_again_as_before(coco: Path, packed: Path) -> None:
    """Never other images than those of the data set, whatever the index says."""
    path, data = folder_of(packed) / "index.json", config_dict("coco_packed", packed).data
    sound, before, informs = path.read_bytes(), everything(packed), 0
    for damage in [*DAMAGES, *CONTENTS]:
        if callable(damage):
            index = json.loads(sound)
            damage(index)
            content = json.dumps(index).encode()
        else:
            content = damage
        path.write_bytes(content)
        try:
            assert open_source(data, True, 0).size == 5
        except UserError as error:
            assert "index.json" in str(error)
        else:
            informs += 1
        if callable(damage):  # else it is written again
            with pytest.raises(UserError, match=r"index\.json|holds other"):
                write_packed(packed, open_raw(config_dict("coco_folder", coco).data), shard_size=3)
        assert everything(packed) == before
    assert informs <= 3  # what was left out is not read


def test_a_broken_index_is_written_again(coco: Path, packed: Path) -> None:
    before = everything(packed)
    (folder_of(packed) / "index.json").write_bytes(CONTENTS[0])
    write_packed(packed, open_raw(config_dict("coco_folder", coco).data), shard_size=3)
    assert everything(packed) == before


def clips(root: Path) -> Config:
    for split in ("train", "val"):
        write_clips(root, split, {"a.gif": moving(4), "b": moving(1), "c.gif": moving(4)})
    return config_dict("clips_folder", root, evaluation_split="val")


def sounds(root: Path) -> Config:
    pytest.importorskip("soundfile")
    for split in ("train", "val"):
        write_sounds(root, split, {"a.wav": tone(100.0), "c.wav": tone(300.0)})
    return config_dict("audio_folder", root, evaluation_split="val", audio={"seconds": 0.32, "bins": 16})


def coco_folder(root: Path) -> Config:
    for split in ("train2017", "val2017"):
        write_coco(root, split, {number: jpeg(number) for number in range(1, 4)})
    return config_dict("coco_folder", root)


@pytest.mark.parametrize("make", [*ENDLESS, make_loop])
@pytest.mark.parametrize(
    ("write", "name"),
    [(clips, "val/a.gif"), (clips, "val/b/0.png"), (sounds, "val/a.wav"), (coco_folder, f"val2017/{1:012d}.jpg")],
)
def test_a_file_that_cannot_be_read_is_masked_out(
    write: Callable[[Path], Config], name: str, make: Callable[[Path], None], tmp_path: Path
) -> None:
    config = write(tmp_path)
    (tmp_path / name).unlink()
    make(tmp_path / name)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, max_corrupt_fraction=1.0))
    source = open_source(config.data, False, 0)
    batches = list(evaluation_batches(source, TOKENIZER, config))
    assert sum(int(batch["mask"].sum()) for batch in batches) == source.size - 1


@pytest.mark.parametrize("content", [b"9" * 5_000, b"[" * 100_000, b'{"images": [{"id": ' + b"9" * 5_000 + b"}]}"])
def test_annotations_that_are_none(content: bytes, tmp_path: Path) -> None:
    config = coco_folder(tmp_path)
    (tmp_path / "annotations" / "captions_train2017.json").write_bytes(content)
    with pytest.raises(UserError, match=r"captions_train2017\.json"):
        open_source(config.data, True, 0)


@pytest.mark.parametrize("make", ENDLESS)
def test_captions_that_never_end(make: Callable[[Path], None], tmp_path: Path) -> None:
    config, path = clips(tmp_path), tmp_path / "train" / "captions.jsonl"
    path.unlink()
    make(path)
    with pytest.raises(UserError, match=r"captions\.jsonl"):
        open_source(config.data, True, 0)


@pytest.mark.parametrize("line", ["[" * 100_000, "9" * 5_000, '{"a":' * 5_000])
def test_captions_that_are_none(line: str, tmp_path: Path) -> None:
    config = clips(tmp_path)
    (tmp_path / "train" / "captions.jsonl").write_text(line)
    with pytest.raises(UserError, match=r"captions\.jsonl, line 1: "):
        open_source(config.data, True, 0)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root may become another user")
def test_an_image_without_permission_is_rejected() -> None:
    with tempfile.TemporaryDirectory() as folder:  # another user may not look into tmp_path
        Path(folder).chmod(0o755)
        path = Path(folder) / "secret.jpg"
        path.write_bytes(jpeg(1))
        path.chmod(0)
        os.seteuid(65_534)
        try:
            found = make_record(RawImage(1, path.name, [], functools.partial(read_regular, path)), 0)
        finally:
            os.seteuid(0)
    assert isinstance(found, Rejected) and "denied" in found.problem
