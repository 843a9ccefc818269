"""A masked generator with a reference, trained, exported and used to enlarge images by the commands."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import Mistake, Once, Run, noise
from safetensors.numpy import load_file, save_file

import mmjax
from mmjax.cli import main
from mmjax.config import resolve, to_dict
from mmjax.data.shard_cache import ArrayReader, open_cache
from mmjax.data.tokens import KIND, OTHER_ARRAYS
from mmjax.export import ImageGenerator
from mmjax.files import params_digest
from mmjax.train.workdir import read_config
from mmjax.types import UserError

pytestmark = pytest.mark.slow  # two trainings come before

CONFIG = "--config=configs/super_resolution.py:tiny"
QUICKER = [
    f"--config.{part}{field}"
    for part in ("", "components.visual_tokenizer.config.")
    for field in (
        "train.steps=3",
        "train.evaluate_every=3",
        "train.best_metric=-loss",
        "evaluate.evaluators=losses",
        "data.evaluation_examples=8",
    )
]
PROMPTS = ["a red circle left of a blue ring", "a green square above a cyan triangle"]


@pytest.fixture(name="workdir", scope="session")
def trained(two_stages: Path, once: Once, run: Run) -> Path:
    """Of a model that enlarges what the quickstart's model draws."""

    def train(workdir: Path) -> None:
        done = run(
            "train", CONFIG, *QUICKER, f"--config.components.reference_tokenizer={two_stages}", "--workdir", workdir
        )
        assert noise(done.stderr) == [] and "super_resolution-visual_tokenizer: all steps done" in done.stdout
        assert "super_resolution: all steps done" in done.stdout and "-reference_tokenizer:" not in done.stdout

    return once("super_resolution", train)


@pytest.fixture(name="folder", scope="session")
def exported(workdir: Path, once: Once) -> Path:
    return once("super_resolution_model", lambda out: main(["export", f"--workdir={workdir}", f"--out={out}"]))


@pytest.fixture(name="model", scope="module")
def loaded(folder: Path) -> ImageGenerator:
    return mmjax.load(folder)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_its_reference_tokenizer_is_that_of_the_model_it_was_given(workdir: Path, two_stages: Path) -> None:
    given, theirs = mmjax.load(two_stages), mmjax.load(workdir)
    assert theirs.config.component("reference_tokenizer") == given.config.component("visual_tokenizer")
    assert params_digest(theirs.components["reference_tokenizer"]) == params_digest(
        given.components["visual_tokenizer"]
    )
    for name in ("train", "evaluation"):
        folder = workdir / "tokens" / name
        reader = ArrayReader(open_cache(folder, KIND))
        assert set(reader.names) == {"codes", "reference_codes", *OTHER_ARRAYS}
        codes, reference = (reader.take(name, np.arange(8)) for name in ("codes", "reference_codes"))
        assert codes.shape == (8, 16, 16) and reference.shape == (8, 8, 8) and len(np.unique(reference)) > 1
    assert (workdir / "evaluation" / "3.samples.png").exists()


def test_drawn_and_enlarged_by_one_command(
    two_stages: Path, workdir: Path, folder: Path, model: ImageGenerator, tmp_path: Path
) -> None:
    command = ["generate", f"--model={two_stages}", "--seed=5", "--prompt", *PROMPTS]
    assert main([*command, f"--out={tmp_path / 'small.png'}"]) == 0
    for name, larger in (("folder", folder), ("workdir", workdir)):
        assert main([*command, f"--enlarge={larger}", f"--out={tmp_path / name}.png"]) == 0
    small, large = pixels(tmp_path / "small.png"), pixels(tmp_path / "folder.png")
    assert small.shape == (32, 64, 3) and large.shape == (64, 128, 3)
    np.testing.assert_array_equal(pixels(tmp_path / "workdir.png"), large)
    halves = np.stack([small[:, :32], small[:, 32:]])
    expected = model.generate(PROMPTS, seed=5, reference=halves)
    np.testing.assert_array_equal(np.concatenate(list(expected), axis=1), large)
    # Of an image in a file.
    Image.fromarray(halves[0]).save(tmp_path / "half.png")
    only = ["generate", f"--model={folder}", "--seed=5", "--prompt", PROMPTS[0]]
    assert main([*only, f"--reference={tmp_path / 'half.png'}", f"--out={tmp_path / 'half_large.png'}"]) == 0
    np.testing.assert_array_equal(pixels(tmp_path / "half_large.png"), expected[0])


def test_an_image_depends_on_its_own_reference_alone(model: ImageGenerator) -> None:
    references = np.random.default_rng(0).integers(0, 256, (17, 32, 32, 3), np.uint8)
    drawn = model.generate([PROMPTS[0]] * 17, seed=[3] * 17, reference=references)
    assert len(np.unique(drawn.reshape(17, -1), axis=0)) == 17
    chosen = model.generate([PROMPTS[0]] * 2, seed=[3, 3], reference=references[[16, 4]])
    np.testing.assert_array_equal(chosen, drawn[[16, 4]])
    # Without guidance by the text, and with it, the reference is looked at.
    for guidance in (0.0, 3.0):
        one, other = (model.generate(PROMPTS[:1], guidance=guidance, reference=references[i : i + 1]) for i in (0, 1))
        assert (one != other).any()


def test_references_that_do_not_fit(
    model: ImageGenerator, folder: Path, two_stages: Path, tmp_path: Path, mistake: Mistake
) -> None:
    with pytest.raises(
        UserError, match=r"^reference: must be float32 or uint8 \[2, 32, 32, 3\], not uint8 \[2, 64, 64"
    ):
        model.generate(PROMPTS, reference=np.zeros((2, 64, 64, 3), np.uint8))
    with pytest.raises(
        UserError, match=r"^reference: this model never learned to draw without one; give it \[2, 32, 32"
    ):
        model.generate(PROMPTS)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "black.png")
    out = tmp_path / "drawn.png"
    drawing = ("generate", f"--model={two_stages}", "--prompt", PROMPTS[0], "--out", out)
    for options, what in [
        (("--reference", tmp_path / "black.png"), "reference: "),
        (("--enlarge", two_stages), f"--enlarge {two_stages}: "),
        (("--enlarge", tmp_path / "none"), f"{tmp_path / 'none'}: no such folder; name a model folder"),
    ]:
        assert mistake(*drawing, *options).startswith(what)
    line = mistake("generate", f"--model={folder}", "--prompt", PROMPTS[0], "--out", out, "--enlarge", folder)
    assert line == f"--enlarge {folder}: its references are of 32 x 32 pixels, and --model draws 64 x 64 pixels"
    assert not out.exists()


def test_without_a_reference_it_draws_from_the_text_if_it_learned_to(model: ImageGenerator) -> None:
    config_dict = to_dict(model.config)
    config = resolve(config_dict, {"model.reference_dropout": "0.1"})
    learned = ImageGenerator(config, model.params, model.tokenizer, model.components)
    black = np.zeros((2, 32, 32, 3), np.uint8)
    drawn = learned.generate(PROMPTS)
    assert drawn.shape == (2, 64, 64, 3) and (drawn != learned.generate(PROMPTS, reference=black)).any()


def test_caches_and_workdirs_of_another_reference_tokenizer(
    workdir: Path, two_stages: Path, tmp_path: Path, mistake: Mistake
) -> None:
    before = (workdir / "config.json").read_bytes()
    another = shutil.copytree(workdir / "reference_tokenizer", tmp_path / "another")
    params = load_file(another / "model.safetensors")
    name = min(params)
    save_file({**params, name: params[name] + np.float32(1e-3)}, another / "model.safetensors")
    settings = [CONFIG, *QUICKER, f"--config.components.visual_tokenizer={workdir / 'visual_tokenizer'}"]
    cache = workdir / "tokens"
    command = ["train", *settings, f"--config.tokens.cache={cache}", "--workdir", tmp_path / "run"]
    line = mistake(*command, f"--config.components.reference_tokenizer={another}")
    assert line.startswith(f"{cache / 'train'}: holds other visual tokens: reference.params was ")
    index = json.loads((two_stages / "tokens" / "train" / "index.json").read_text())
    assert "reference" not in index["key"]
    line = mistake(
        "train", CONFIG, *QUICKER, f"--config.components.reference_tokenizer={another}", "--workdir", workdir
    )
    assert line == f"--workdir {workdir}: has another reference_tokenizer than {another}; name another one"
    line = mistake("train", CONFIG, *QUICKER, "--workdir", workdir)
    assert line.startswith(f"--workdir {workdir}: ") and "--config.components.reference_tokenizer=DIR" in line
    line = mistake("train", CONFIG, "--config.components.reference_tokenizer=/nowhere", "--workdir", tmp_path / "new")
    assert line.startswith("/nowhere: no config.json there; name a workdir of mmjax train")
    assert (workdir / "config.json").read_bytes() == before and not (tmp_path / "new").exists()
    assert read_config(workdir).components["reference_tokenizer"].path == str(two_stages)
