"""mmjax search with pretrained models: images by text and by images, texts by text, what is kept and refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from folders import PIXELS, REFERENCES, copied
from PIL import Image

import mmjax
from mmjax.cli import main


@pytest.fixture(name="folder")
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(5):
        pixels = rng.integers(0, 256, (13 + i, 19 - i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture(name="clip")
def clip_folder(tmp_path: Path) -> Path:
    folder = copied(tmp_path, "clip")
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    return folder


def found(capsys: pytest.CaptureFixture[str]) -> list[tuple[str, float]]:
    rows = map(json.loads, capsys.readouterr().out.splitlines())
    return [(Path(row.get("image", row.get("text"))).name, row["similarity"]) for row in rows]


def test_images_by_text_and_by_an_image(clip: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, paths = mmjax.load(clip), sorted(folder.iterdir())
    embedded = model.embed_image([np.asarray(Image.open(path)) for path in paths])
    for query, vector in (
        (["--text", "a red ring"], model.embed_text(["a red ring"])[0]),
        (["--image", str(paths[2])], embedded[2]),
    ):
        sheet = folder.parent / "sheet.png"
        assert main(["search", f"--model={clip}", f"--index={folder}", *query, "--json", f"--out={sheet}"]) == 0
        names, cosines = zip(*found(capsys), strict=True)
        order = np.argsort(-(embedded @ vector))
        assert list(names) == [paths[i].name for i in order]
        np.testing.assert_allclose(cosines, (embedded @ vector)[order], atol=2e-6)
        drawn = np.asarray(Image.open(sheet))
        assert drawn.shape == (12, 60, 3)
        np.testing.assert_array_equal(drawn[:, :12], model.images.resized(np.asarray(Image.open(paths[order[0]]))))
    shards = {path: path.stat().st_mtime_ns for path in (folder / ".mmjax-index").glob("*.safetensors")}
    assert main(["search", f"--model={clip}", f"--index={folder}", "--text", "a ring"]) == 0
    assert shards and {path: path.stat().st_mtime_ns for path in shards} == shards
    settings = json.loads((clip / "preprocessor_config.json").read_text())
    (clip / "preprocessor_config.json").write_text(json.dumps(settings | {"image_std": [0.25] * 3}))
    assert main(["search", f"--model={clip}", f"--index={folder}", "--text", "a ring"]) == 2
    assert "holds other embeddings" in capsys.readouterr().err


def test_lines_of_text_by_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, lines = copied(tmp_path, "bert"), ["a red ring", "a blue square", "a small circle"]
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    command = ["search", f"--model={folder}", f"--index={tmp_path / 'lines.txt'}", "--text", "a blue square", "--json"]
    assert main(command) == 0
    rows = found(capsys)
    assert rows[0] == ("a blue square", 1.0) and {name for name, _ in rows} == set(lines)


@pytest.mark.parametrize(("name", "kinds"), [("bert", "images"), ("vit", "texts")])
def test_what_a_model_does_not_encode(
    name: str, kinds: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = copied(tmp_path, "bert") if name == "bert" else REFERENCES / name
    assert main(["search", f"--model={model}", f"--index={folder}", "--text", "a ring"]) == 2
    assert f"encodes no {kinds}" in capsys.readouterr().err
