"""A folder of captioned images as a source, and what may be wrong with one."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_data import config_dict, jpeg, make_image
from PIL import Image

from mmjax.data import evaluation_batches, load_tokenizer, open_source, train_tokenizer, training_batches
from mmjax.types import UserError

TOKENIZER = load_tokenizer(train_tokenizer(["some words"] * 9, 300))


def make(root: Path, content: dict[str, bytes]) -> Path:
    folder = root / "train"
    folder.mkdir(parents=True)
    for name, image in content.items():
        (folder / name).write_bytes(image)
    lines = [json.dumps({"image": name, "captions": [f"a {name}", "any"]}) for name in content]
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return root


def test_images_and_captions_are_those_of_the_files(tmp_path: Path) -> None:
    root = make(tmp_path, {"b.jpg": jpeg(3), "a.jpg": jpeg(9), "broken.jpg": b"broken"})
    config = config_dict("images_folder", root, evaluation_split="train", resize=16, max_corrupt_fraction=1.0)
    source = open_source(config.data, False, 0)
    assert (source.name, source.size) == ("images_folder", 3)
    assert list(source.all_captions())[:3] == ["a b.jpg", "any", "a a.jpg"]
    (batch,) = evaluation_batches(source, TOKENIZER, config)
    assert batch["id"][:3] == ["b.jpg", "a.jpg", "broken.jpg"] and batch["captions"][1] == ["a a.jpg", "any"]
    assert batch["mask"].tolist() == [True, True, False, False, False]
    blue = np.rint((batch["image"][:2, :, :, 2].mean((1, 2)) + 1) * 127.5)
    assert np.abs(blue - [make_image(n)[0, 0, 2] for n in (3, 9)]).max() < 3


def test_training_crops_and_flips_evaluation_does_not(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(40, dtype=np.uint8)[None, :, None] * 6, (20, 40, 3))
    (tmp_path / "train").mkdir()
    Image.fromarray(ramp.copy()).save(tmp_path / "train" / "ramp.png")
    (tmp_path / "train" / "captions.jsonl").write_text('{"image": "ramp.png", "captions": ["a ramp"]}')
    config = config_dict("images_folder", tmp_path, evaluation_split="train", resize=20, flip=True)
    batches = training_batches(open_source(config.data, True, 0), TOKENIZER, config)
    seen = np.concatenate([next(batches)["image"] for _ in range(6)])
    batches.close()  # type: ignore[attr-defined]
    slopes, means = seen[:, 8, -1, 0] - seen[:, 8, 0, 0], seen.mean((1, 2, 3))
    assert (slopes > 0).any() and (slopes < 0).any() and np.ptp(means) > 0.2
    (batch,) = evaluation_batches(open_source(config.data, False, 0), TOKENIZER, config)
    assert batch["image"][0].mean() == pytest.approx(ramp[:, 12:28].mean() / 127.5 - 1, abs=0.02)


def test_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    root = make(tmp_path / "a", {"b.jpg": jpeg(3)})
    (root / "train" / "b.jpg").unlink()
    empty = tmp_path / "b"
    (empty / "train").mkdir(parents=True)
    (empty / "train" / "captions.jsonl").write_text('{"clip": "b.jpg", "captions": ["x"]}')
    for folder, named in (
        (root, "names b.jpg"),
        (empty, "needs an image and its captions"),
        (tmp_path / "c", "no such"),
    ):
        with pytest.raises(UserError, match=named):
            open_source(config_dict("images_folder", folder).data, True, 0)
