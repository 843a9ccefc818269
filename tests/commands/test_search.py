"""mmjax search with a trained model: images by text and by images, texts by an image, what is kept."""

import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import Mistake, keep_loaded

import mmjax
from mmjax.cli import main
from mmjax.export import DualEncoder
from mmjax.scenes import questions
from mmjax.scenes.draw import draw_things

INDEX = ".mmjax-index"
TEXT = "a red circle left of a blue square"


@pytest.fixture(name="model", scope="module")
def loaded(describing: Path) -> DualEncoder:
    return mmjax.load(describing)


@pytest.fixture(autouse=True)
def loaded_once(describing: Path, model: DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_loaded(monkeypatch, {describing: model})


@pytest.fixture(name="folder")
def images(tmp_path: Path) -> Path:
    (tmp_path / "found" / "below").mkdir(parents=True)
    for i in range(19):
        scene = questions.example_scene(i, 0, fully_specified=False, held_out=True)
        name = f"below/{i:02}.png" if i > 16 else f"{i:02}.png"
        Image.fromarray(draw_things(scene.things, 32)).save(tmp_path / "found" / name)
    return tmp_path / "found"


def seen(folder: Path) -> tuple[list[Path], np.ndarray]:
    paths = [*sorted(folder.glob("*.png")), *sorted(folder.glob("below/*.png"))]
    return paths, np.stack([np.asarray(Image.open(path)) for path in paths])


def found(capsys: pytest.CaptureFixture[str]) -> tuple[list[str], list[float]]:
    rows = [line.split("  ", 1) for line in capsys.readouterr().out.splitlines()]
    return [name for _, name in rows], [float(number) for number, _ in rows]


def test_images_by_text_and_by_images(
    describing: Path, model: DualEncoder, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, images = seen(folder)
    embeddings, text = model.embed_image(images), model.embed_text([TEXT])[0]
    command = ["search", f"--model={describing}", f"--index={folder}"]

    def check(query: np.ndarray, top: int) -> None:
        cosines = embeddings @ (query / np.linalg.norm(query))
        order = np.argsort(-cosines, kind="stable")[:top]
        names, numbers = found(capsys)
        np.testing.assert_allclose(numbers, cosines[order], atol=1e-4)
        np.testing.assert_allclose(cosines[[paths.index(Path(name)) for name in names]], cosines[order], atol=1e-5)
        assert len(names) == len(set(names)) == top

    assert main([*command, "--text", TEXT]) == 0
    check(text, 10)
    assert main([*command, "--image", str(paths[3]), "--top=3", f"--out={tmp_path / 'sheet.png'}"]) == 0
    check(embeddings[3], 3)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "sheet.png"))[:, :32], images[3])
    both = [*command, "--text", TEXT, "--image", str(paths[3]), str(paths[18]), "--top=19"]
    assert main(both) == 0
    check(text + embeddings[3] + embeddings[18], 19)
    assert main([*both, "--weights", "1", "2.5", "-1"]) == 0
    check(text + np.float32(2.5) * embeddings[3] - embeddings[18], 19)
    assert main([*command, "--image", str(paths[3]), "--top=1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"similarity": pytest.approx(1, abs=1e-5), "image": str(paths[3])}


def test_texts_by_an_image(
    describing: Path, model: DualEncoder, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [f"a {color} {shape}" for color in ("red", "blue", "green") for shape in ("ring", "square", "circle")]
    (tmp_path / "texts.txt").write_text("\n".join([*texts, "", texts[0]]))
    command = ["search", f"--model={describing}", f"--index={tmp_path / 'texts.txt'}"]
    assert main([*command, "--image", str(folder / "00.png"), "--top=99"]) == 0
    names, numbers = found(capsys)
    image = model.embed_image(np.asarray(Image.open(folder / "00.png"))[None])[0]
    cosines = dict(zip(texts, (model.embed_text(texts) @ image).tolist(), strict=True))
    assert sorted(names) == sorted(texts)
    np.testing.assert_allclose(numbers, [cosines[name] for name in names], atol=1e-4)
    assert numbers == sorted(numbers, reverse=True)
    assert (tmp_path / ".texts.txt.mmjax-index" / "index.json").exists()


def test_images_are_embedded_once(
    describing: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logging.getLogger("mmjax").propagate = True
    embedded: list[int] = []
    embed = DualEncoder.embed_image
    monkeypatch.setattr(DualEncoder, "embed_image", lambda model, x: (embedded.append(len(x)), embed(model, x))[1])
    command = ["search", f"--model={describing}", f"--index={folder}", "--text", TEXT, "--top=99"]
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "broken.txt").write_bytes(b"not looked at")
    assert main(command) == 0
    assert embedded == [16, 3] and len(found(capsys)[0]) == 19
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"left out: 1 files that cannot be read, the first: {folder / 'broken.png'}: not a")
    (folder / "broken.png").unlink()
    embedded.clear()
    written = (folder / INDEX / "index.json").stat().st_mtime_ns
    assert main(command) == 0
    assert embedded == [] and (folder / INDEX / "index.json").stat().st_mtime_ns == written
    capsys.readouterr()
    shutil.copy(folder / "00.png", folder / "new.png")
    shutil.copy(folder / "01.png", folder / "02.png")
    os.utime(folder / "02.png", ns=(1, 1))
    (folder / "below" / "17.png").unlink()
    assert main(command) == 0
    names, numbers = found(capsys)
    assert embedded == [2] and len(names) == 19 and str(folder / "below" / "17.png") not in names
    cosine = dict(zip(names, numbers, strict=True))
    for one, other in (("00.png", "new.png"), ("01.png", "02.png")):
        assert cosine[str(folder / one)] == pytest.approx(cosine[str(folder / other)], abs=2e-4)


def test_mistakes(
    describing: Path,
    two_stages: Path,
    folder: Path,
    tmp_path: Path,
    mistake: Mistake,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ("search", f"--model={describing}", f"--index={folder}")
    assert "--text: what to find?" in mistake(*command)
    assert "--text: is empty" in mistake(*command, "--text", " ")
    assert "--top 0: must be at least 1" in mistake(*command, "--text=a", "--top=0")
    assert "--weights: needs one for each --text and --image, 2 together" in mistake(
        *command, "--text=a", "--image", folder / "00.png", "--weights=1"
    )
    assert "--weights: nothing is left" in mistake(*command, "--text", "a", "a", "--weights", "1", "-1")
    assert f"--image {folder / 'no.png'}: no such file" in mistake(*command, "--image", folder / "no.png")
    assert "--out sheet.bmp: must end in .png" in mistake(*command, "--text=a", "--out=sheet.bmp")
    assert not (folder / INDEX).exists()
    for name, content, what in (("a.csv", b"x", "must be a folder of images, or a text file"),
                                ("no.txt", None, "cannot be read as UTF-8 text"),
                                ("a.txt", b"\xff\xfe\xfd", "cannot be read as UTF-8 text"),
                                ("b.txt", b"\n \n", "holds no text")):  # fmt: skip
        if content is not None:
            (tmp_path / name).write_bytes(content)
        assert what in mistake("search", f"--model={describing}", f"--index={tmp_path / name}", "--text=a")
    (tmp_path / "c.txt").write_text("a")
    assert "--out: draws images" in mistake(*command[:2], f"--index={tmp_path}/c.txt", "--text=a", "--out=x.png")
    (tmp_path / "empty").mkdir()
    assert "holds no file" in mistake(*command[:2], f"--index={tmp_path / 'empty'}", "--text=a")
    (tmp_path / "empty" / "x.png").write_bytes(b"no image")
    assert "none of its 1 files can be read" in mistake(*command[:2], f"--index={tmp_path / 'empty'}", "--text=a")
    another = mistake("search", f"--model={two_stages}", f"--index={folder}", "--text=a")
    assert another.startswith(f"--model {two_stages}: ") and "masked_generator" in another


def test_an_index_of_another_model(
    describing: Path, folder: Path, tmp_path: Path, mistake: Mistake, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("search", f"--model={describing}", f"--index={folder}", "--text=a", f"--keep={tmp_path / 'kept'}")
    assert main(list(command)) == 0
    before = capsys.readouterr().out
    other = tmp_path / "other"
    assert main(["export", f"--workdir={describing}", f"--out={other}", "--step=2"]) == 0
    said = mistake("search", f"--model={other}", *command[2:])
    assert said.startswith(f"{tmp_path / 'kept'}: holds other embeddings: model.params was ") and "--rebuild" in said
    assert main(["search", f"--model={other}", *command[2:], "--rebuild"]) == 0
    assert capsys.readouterr().out != before
    assert not (folder / INDEX).exists()
    assert main(["export", f"--workdir={describing}", f"--out={other}"]) == 0  # the same model elsewhere
    assert main([*command[:4], "--rebuild", command[4]]) == 0
    assert main(["search", f"--model={other}", *command[2:]]) == 0
