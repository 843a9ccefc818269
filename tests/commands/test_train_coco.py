"""The classical baseline from a COCO folder to images, by the commands, on a folder with all that may be wrong."""

import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import Mistake, Run, committed, metrics, noise

pytest.importorskip("tensorflow")

CONFIG = "--config=configs/coco_direct.py:tiny"
MASKED = "--config=configs/coco_masked.py:tiny"


def jpeg(number: int, mode: str = "RGB") -> bytes:
    y, x = np.mgrid[0:43, 0:61]
    channels = [x * 4, y * 5, np.full_like(x, number * 29 % 256)]
    file = io.BytesIO()
    Image.fromarray(np.stack(channels, -1).astype(np.uint8)).convert(mode).save(file, "JPEG", quality=95)
    return file.getvalue()


def write_split(root: Path, split: str, images: dict[int, bytes | None]) -> None:
    """A split with two captions an image; an image of None is annotated but absent."""
    (root / split).mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    for number, content in images.items():
        if content is not None:
            (root / split / f"{number:012d}.jpg").write_bytes(content)
    entries = [{"id": number, "file_name": f"{number:012d}.jpg"} for number in images]
    captions = [{"id": 2 * number + i, "image_id": number, "caption": f"a thing of kind {number} seen {word}"}
                for number in images for i, word in enumerate(("left", "right"))]  # fmt: skip
    text = json.dumps({"images": entries, "annotations": captions})
    (root / "annotations" / f"captions_{split}.json").write_text(text)


@pytest.fixture(name="root", scope="module")
def mixed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    good: dict[int, bytes | None] = {number: jpeg(number) for number in range(1, 5)}
    odd = {5: jpeg(5, "L"), 6: jpeg(6, "CMYK")}
    bad = {7: b"no image at all", 8: jpeg(8)[:600], 9: None}
    write_split(root, "train2017", good | odd | bad)
    write_split(root, "val2017", {number: jpeg(number) for number in range(11, 14)})
    return root


@pytest.fixture(name="workdir", scope="module")
def trained(root: Path, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("coco") / "run"
    done = run("train", CONFIG, f"--config.data.root={root}", "--workdir", workdir)
    assert "8 examples, 4 steps" in done.stdout and "coco_direct: all steps done" in done.stdout
    # What was left out, and nothing else beside what libjpeg writes of its own accord.
    told = [line for line in noise(done.stderr) if "JPEG library" not in line]
    assert f"{root}/train2017: 1 images " in told[0] and told[0].endswith(" 000000000009.jpg")
    assert all(re.search(r"coco_folder: image [78] cannot be read and is masked out", line) for line in told[1:])
    return workdir


def test_unreadable_images_are_counted_and_the_rest_is_trained_on(workdir: Path) -> None:
    """An epoch is one batch of eight, and two of the eight cannot be read."""
    rows = metrics(workdir)
    assert [row["corrupt_examples"] for row in rows if row["split"] == "train"] == [2.0] * 4
    assert all(row["skipped_steps"] == 0 and row["loss"] > 0 for row in rows if row["split"] == "train")
    assert [row["step"] for row in rows if row["split"] == "evaluation"] == [2, 4] and committed(workdir) == [2, 4]


def test_evaluate_export_and_generate(workdir: Path, root: Path, tmp_path: Path, run: Run, mistake: Mistake) -> None:
    expected = (workdir / "evaluation" / "4.json").read_text()
    (workdir / "evaluation" / "4.json").unlink()
    assert noise(run("evaluate", "--workdir", workdir).stderr) == []
    assert (workdir / "evaluation" / "4.json").read_text() == expected
    assert run("export", "--workdir", workdir, "--out", tmp_path / "model").stderr == ""
    drawn = []
    for model, reference in ((workdir, 11), (tmp_path / "model", 11), (tmp_path / "model", 5)):
        folder = "val2017" if reference > 9 else "train2017"
        path = root / folder / f"{reference:012d}.jpg"
        command = ("generate", "--model", model, "--prompt", "a thing", "--out", tmp_path / "drawn.png")
        assert run(*command, "--reference", path).stderr == ""
        with Image.open(tmp_path / "drawn.png") as image:
            drawn.append(np.asarray(image))
    assert drawn[0].shape == (32, 32, 3)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[1] != drawn[2]).any()
    broken = root / "train2017" / f"{7:012d}.jpg"
    line = mistake("generate", "--model", workdir, "--prompt", "x", "--reference", broken, "--out", tmp_path / "d.png")
    assert line == f"{broken}: not an image; JPEG, PNG, GIF, BMP and WebP can be read"
    assert not (tmp_path / "d.png").exists()


@pytest.mark.slow
def test_a_masked_generator_on_the_codes_of_the_folder(root: Path, tmp_path: Path, run: Run) -> None:
    """Two views of each image are encoded once; those that cannot be read are left out here and there."""
    done = run("train", MASKED, f"--config.data.root={root}", "--workdir", tmp_path / "run")
    assert (
        "coco_masked-visual_tokenizer: all steps done" in done.stdout and "coco_masked: all steps done" in done.stdout
    )
    told = [line for line in noise(done.stderr) if "JPEG library" not in line]
    assert all(line.startswith("mmjax: ") for line in told)
    assert "mmjax: coco_folder: 7 could not be read when the tokens were made and is masked out" in told
    index = json.loads((tmp_path / "run" / "tokens" / "train" / "index.json").read_text())
    assert [index["info"][name] for name in ("size", "num_augmentations", "source")] == [8, 2, "coco_folder"]
    for folder in (tmp_path / "run" / "visual_tokenizer", tmp_path / "run"):
        rows = metrics(folder)
        assert [row["corrupt_examples"] for row in rows if row["split"] == "train"] == [2.0] * 4
        assert [row["step"] for row in rows if row["split"] == "evaluation"] == [2, 4]


def test_a_folder_that_is_half_there(root: Path, tmp_path: Path, mistake: Mistake) -> None:
    (tmp_path / "train2017").mkdir()
    command = ("train", CONFIG, f"--config.data.root={tmp_path}", "--workdir", tmp_path / "run")
    line = mistake(*command)
    assert line.startswith(f"{tmp_path}/annotations/captions_train2017.json: no such file, though there is ")
    (tmp_path / "annotations").mkdir()
    text = (root / "annotations" / "captions_train2017.json").read_text()
    (tmp_path / "annotations" / "captions_train2017.json").write_text(text[: len(text) // 2])
    assert "captions_train2017.json: not complete JSON (" in mistake(*command)
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif("MMJAX_COCO_DIR" not in os.environ, reason="MMJAX_COCO_DIR names no COCO folder")
def test_real_images(tmp_path: Path, run: Run) -> None:
    root = Path(os.environ["MMJAX_COCO_DIR"]).resolve()
    done = run("train", CONFIG, f"--config.data.root={root}", "--workdir", tmp_path / "run")
    assert noise(done.stderr) == []
    rows = metrics(tmp_path / "run")
    assert [row["corrupt_examples"] for row in rows if row["split"] == "train"] == [0.0] * 4
    assert rows[-2]["split"] == "evaluation" and 3 < rows[-2]["reconstruction/psnr"] < 30
