"""mmjax describe on a trained workdir and on its export: lines, maps, and what is wrong with what it is given."""

import json
import logging
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import Mistake, Once, keep_loaded

import mmjax
from mmjax.cli import main
from mmjax.engine import setup
from mmjax.export import Captioner
from mmjax.sample.overlay import LABEL
from mmjax.scenes import questions
from mmjax.scenes.draw import draw_things

QUESTION = "what color is the circle?"
DRAWN = ("--top-p=1", "--temperature=3")  # after so few steps the likeliest text is empty


@pytest.fixture(name="images", scope="session")
def drawn_images(once: Once) -> Path:
    def draw(folder: Path) -> None:
        (folder / "more").mkdir(parents=True)
        for i, name in enumerate(("b.png", "a.png", "more/c.png")):
            scene = questions.example_scene(i, 0, fully_specified=False, held_out=True)
            Image.fromarray(draw_things(scene.things, 32)).save(folder / name)

    return once("images-to-describe", draw)


@pytest.fixture(name="model", scope="session")
def exported(once: Once, describing: Path) -> Path:
    return once("described", lambda folder: main(["export", f"--workdir={describing}", f"--out={folder}"]))


@pytest.fixture(name="loaded", scope="module")
def loaded_models(describing: Path, model: Path) -> dict[Path, Captioner]:
    return {folder: mmjax.load(folder) for folder in (describing, model)}


@pytest.fixture(autouse=True)
def loaded_once(loaded: dict[Path, Captioner], monkeypatch: pytest.MonkeyPatch) -> None:
    keep_loaded(monkeypatch, loaded)


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_line_for_each_image(describing: Path, model: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = mmjax.load(describing)
    seen = np.stack([read(images / name) for name in ("a.png", "b.png", "more/c.png")])
    captions = loaded.caption(seen, 7, top_p=1.0, temperature=3.0)
    assert all(captions) and len(set(captions)) == 3
    command = ["describe", "--seed=7", *DRAWN]
    assert main([*command, f"--model={describing}", f"--image={images}"]) == 0
    names = [images / name for name in ("a.png", "b.png", "more/c.png")]
    seen_signs = [[" " if unicodedata.category(sign)[0] in "CZ" else sign for sign in caption] for caption in captions]
    printed = [re.sub(" +", " ", "".join(signs)).strip() for signs in seen_signs]
    lines = [f"{name}: {caption}" for name, caption in zip(names, printed, strict=True)]
    assert capsys.readouterr().out.split("\n") == [*lines, ""]
    assert main([*command, f"--model={model}", f"--image={images / 'a.png'}"]) == 0
    assert capsys.readouterr().out == f"{printed[0]}\n"
    assert main([*command, f"--model={model}", "--json", "--question", QUESTION, "--image", *map(str, names)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    answers = loaded.answer(seen, [QUESTION] * 3, 7, top_p=1.0, temperature=3.0)
    assert rows == [
        {"image": str(name), "question": QUESTION, "answer": answer}
        for name, answer in zip(names, answers, strict=True)
    ]


def test_how_it_is_written_can_be_chosen(model: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[tuple] = []
    monkeypatch.setattr(
        Captioner, "caption", lambda model, images, seed, **writing: chosen.append((seed, writing)) or ["a"]
    )
    command = ["describe", f"--model={model}", f"--image={images / 'a.png'}"]
    assert main([*command, "--beams=3", "--length-penalty=0.5"]) == main([*command, *DRAWN, "--seed=5"]) == 0
    assert chosen == [(0, {"beams": 3, "length_penalty": 0.5}), (5, {"top_p": 1.0, "temperature": 3.0})]


@pytest.mark.slow
def test_a_trained_model_is_evaluated_with_beams(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, config = tmp_path / "run", ["--config=configs/quickstart_describe.py:tiny", "--config.train.best_metric="]
    config.append("--config.evaluate.evaluators=losses")
    assert main(["train", *config, f"--workdir={copy}"]) == 0
    decoded: list[int] = []
    real = setup.make_text_generator
    monkeypatch.setattr(
        setup, "make_text_generator", lambda fns, chosen: (decoded.append(chosen.beams), real(fns, chosen))[1]
    )
    beams, captions = "--config.text_decoding.beams=2", "--config.evaluate.evaluators=captions"
    assert main(["evaluate", f"--workdir={copy}", beams, captions, "--config.evaluate.samples=0"]) == 0
    assert decoded == [2] and "captions/cider" in capsys.readouterr().out
    assert main(["train", *config, f"--workdir={copy}", beams]) == 0
    assert "is done already" in capsys.readouterr().out


def test_maps_show_each_word(model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "maps.png"
    command = ["describe", f"--model={model}", "--image", str(images / "a.png"), *DRAWN]
    assert main([*command, "--maps", str(out)]) == 0
    words = capsys.readouterr().out.split()
    sheet, tiles = read(out), min(1 + len(words), 10)
    assert len(words) > 1 and sheet.shape[1:] == (160 * tiles, 3) and sheet.shape[0] % (160 + LABEL) == 0
    image = read(images / "a.png").repeat(5, axis=0).repeat(5, axis=1)
    np.testing.assert_array_equal(sheet[:160, :160], image)
    assert (sheet[:160, 160:320] != image).any()
    assert main([*command, "--question", QUESTION, "--maps", str(out)]) == 0
    assert (read(out)[:160, :160] == image).all()


def test_what_of_a_folder_cannot_be_read_is_left_out(
    model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("mmjax").propagate = True
    (tmp_path / "a.jpg").write_bytes(b"no image")
    (tmp_path / ".hidden.png").write_bytes(b"not looked at")
    (tmp_path / "b.png").write_bytes((images / "b.png").read_bytes())
    assert main(["describe", f"--model={model}", f"--image={tmp_path}"]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'b.png'}: ")
    assert [record.getMessage()[:9] for record in caplog.records] == ["left out:"]


def test_mistakes(model: Path, images: Path, two_stages: Path, tmp_path: Path, mistake: Mistake) -> None:
    image, broken = images / "a.png", tmp_path / "x" / "broken.png"
    broken.parent.mkdir()
    broken.write_bytes(b"no image")
    command = ("describe", f"--model={model}", "--image")
    assert mistake(*command, tmp_path / "no.png").startswith(f"--image {tmp_path / 'no.png'}: no such file")
    assert mistake(*command, broken).startswith(f"--image {broken}: not an image")
    assert mistake(*command, broken.parent) == "--image: none of 1 files can be read"
    assert "holds no file that ends in .jpg" in mistake(*command, _empty(tmp_path / "empty"))
    assert "--question: is empty" in mistake(*command, image, "--question", " ")
    assert "must end in .png" in mistake(*command, image, "--maps=maps.txt")
    assert "--maps: is for at most 64 images, not 65" in mistake(*command, *[image] * 65, "--maps=maps.png")
    assert "text_decoding.beams: must be above 0" in mistake(*command, image, "--beams=0")
    assert "text_decoding.top_p: must be at least 0 and at most 1, not 2" in mistake(*command, image, "--top-p=2")
    of_another_kind = mistake("describe", f"--model={two_stages}", "--image", image)
    assert of_another_kind.startswith(f"--model {two_stages}: ") and "masked_generator" in of_another_kind
    drawn = mistake("generate", f"--model={model}", "--prompt=a", f"--out={tmp_path}/a.png")
    assert drawn.startswith(f"--model {model}: ") and "vision_language" in drawn


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_the_model_card_runs(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = (model / "README.md").read_text()
    assert "images of 32 x 32 pixels and texts" in card and "captions, answers to questions" in card
    monkeypatch.chdir(model)
    found: dict = {}
    exec(card.split("```python\n")[1].split("```")[0], found)
    assert len(found["captions"]) == len(found["answers"]) == 1 and found["similarity"].shape == (1, 1)
