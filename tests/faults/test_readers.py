"""Names of files in a data set: below folders, and outside of it."""

import json
import os
from pathlib import Path

import pytest
from made_data import config_dict, jpeg, write_coco

from mmjax.data import open_source
from mmjax.data.coco import raw_coco
from mmjax.data.folder_dataset import is_inside
from mmjax.data.image import read_image
from mmjax.data.packed import Rejected, make_record
from mmjax.types import UserError


def test_images_of_coco_below_folders(tmp_path: Path) -> None:
    """Some in one folder, some in another of the same names, and one at the top."""
    write_coco(tmp_path, "train2017", {number: jpeg(number) for number in range(1, 6)})
    path = tmp_path / "annotations" / "captions_train2017.json"
    folder, told = tmp_path / "train2017", json.loads(path.read_text())
    for image in told["images"]:
        if (number := image["id"]) < 5:
            inner = "a/cam1" if number < 3 else "a/cam2"
            (folder / inner).mkdir(parents=True, exist_ok=True)
            name = f"{inner}/{number % 2}.jpg"
            (folder / image["file_name"]).rename(folder / name)
            image["file_name"] = name
    path.write_text(json.dumps(told))
    source = open_source(config_dict("coco_folder", tmp_path).data, True, 0)
    assert source.size == 5


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.wav", "a/../../secret.wav"])
def test_captions_name_files_of_their_folder_alone(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    (folder / "captions.jsonl").write_text(json.dumps({"sound": name, "captions": ["a sound"]}))
    (tmp_path / "secret.wav").touch()
    with pytest.raises(UserError, match="line 1: ") as error:
        open_source(config_dict("audio_folder", tmp_path).data, True, 0)
    assert repr(name) in str(error.value)


def test_coco_names_files_of_its_folder_alone(tmp_path: Path) -> None:
    write_coco(tmp_path, "train2017", {1: jpeg(1), 2: jpeg(2)})
    (tmp_path / "secret.jpg").write_bytes(jpeg(3))
    path = tmp_path / "annotations" / "captions_train2017.json"
    path.write_text(path.read_text().replace(f"{2:012d}.jpg", "../secret.jpg"))
    assert open_source(config_dict("coco_folder", tmp_path).data, True, 0).size == 1


def test_inside() -> None:
    assert all(map(is_inside, ("a", "a/b.c", "", "..a", "a..")))
    assert not any(map(is_inside, ("/a", "..", "../a", "a/../b")))


def test_what_is_no_regular_file_is_left_out_and_waited_for_by_nobody(tmp_path: Path) -> None:
    write_coco(tmp_path, "train2017", {number: jpeg(number) for number in range(1, 5)})
    paths = [tmp_path / "train2017" / f"{number:012d}.jpg" for number in range(1, 5)]
    for path in paths[:3]:
        path.unlink()
    os.mkfifo(paths[0])
    paths[1].symlink_to("/dev/zero")
    paths[2].symlink_to(paths[2])
    found = [make_record(image, 0) for image in raw_coco(str(tmp_path), "train").read(0, 4)]
    assert [isinstance(each, Rejected) for each in found] == [True, True, True, False]
    for path in paths[:3]:
        with pytest.raises(UserError, match=path.name):
            read_image(path, 16)
