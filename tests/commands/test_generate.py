"""mmjax generate on a model folder that was never trained: the forms of its output, and what it needs."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from runs import ROOT, Mistake

from mmjax import data, models
from mmjax.cli import main
from mmjax.config import resolve
from mmjax.export import write_model_folder

SMALL = {"width": 16, "heads": 2, "text_layers": 1, "vision_layers": 1, "fusion_layers": 1, "decoder_widths": [8, 8]}
PROMPTS = [f"{i} red circles" for i in range(11)]


def write(folder: Path, model: dict) -> Path:
    config = resolve(
        {"name": "small", "text": {"length": 11, "vocabulary": 320}, "model": model, "train": {"steps": 7}}
    )
    params = jax.device_get(jax.jit(lambda: models.init(config, jax.random.key(5)))())
    write_model_folder(folder, config, params, data.train_tokenizer(PROMPTS, 320), 7, {})
    return folder


@pytest.fixture(name="model", scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("generate") / "model", SMALL)


def test_many_images_are_wrapped(model: Path, tmp_path: Path) -> None:
    command = ["generate", f"--model={model}", "--prompt", *PROMPTS]
    assert main([*command, f"--out={tmp_path / 'all.png'}"]) == 0
    assert main([*command, f"--out={tmp_path / '{}.png'}"]) == 0
    sheet = np.asarray(Image.open(tmp_path / "all.png"))
    assert sheet.shape == (64, 8 * 32, 3) and not sheet[32:, 3 * 32 :].any()
    for i in range(11):
        row, column = 32 * (i // 8), 32 * (i % 8)
        single = np.asarray(Image.open(tmp_path / f"{i}.png"))
        np.testing.assert_array_equal(sheet[row : row + 32, column : column + 32], single)


def test_help_says_how_images_are_put_together(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "PNG, JPEG or WebP with all images" in text and "up to 8 in a row; with {} in the name one file each" in text


def test_a_drawn_image_is_a_reference(model: Path, tmp_path: Path) -> None:
    command = ["generate", f"--model={model}", "--prompt", PROMPTS[0]]
    assert main([*command, f"--out={tmp_path / 'one.png'}"]) == 0
    assert main([*command, f"--reference={tmp_path / 'one.png'}", f"--out={tmp_path / 'two.png'}"]) == 0
    one, two = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in ("one", "two"))
    assert one.shape == two.shape == (32, 32, 3) and (one != two).any()


def test_a_visual_tokenizer_is_refused(tmp_path: Path, mistake: Mistake) -> None:
    folder = write(tmp_path / "codes", {"kind": "visual_tokenizer", "widths": [8, 8], "levels": [5, 3]})
    line = mistake("generate", "--model", folder, "--prompt", "x", "--out", tmp_path / "x.png")
    assert line.startswith(f"--model {folder}: ") and "visual_tokenizer" in line


def test_imports_nothing_that_is_slow_and_not_needed(model: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from mmjax.cli import main\n"
        f"assert main(['generate', {f'--model={model}'!r}, '--prompt', 'x', {f'--out={tmp_path}/x.png'!r}]) == 0\n"
        "print([name for name in ('av', 'matplotlib', 'orbax', 'skimage', 'tensorboardX', 'tensorflow', "
        "'tensorflow_datasets', 'scipy.ndimage') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
