"""What the later stages and the end of a command need is checked before its first step."""

import shutil
import sys
from pathlib import Path

import jax
import pytest
from runs import Mistake

from mmjax import data, models
from mmjax.config import resolve
from mmjax.export import Captioner, DirectImageGenerator, DualEncoder, write_model_folder
from mmjax.train.checkpoint import Checkpoints

CONFIG = "--config=configs/quickstart.py:tiny"
SMALL = {"width": 16, "heads": 2, "text_layers": 1}
DRAWS = {**SMALL, "kind": "direct_generator", "vision_layers": 1, "fusion_layers": 1, "decoder_widths": [8, 8]}
SEES = {**SMALL, "kind": "vision_language", "patch": 8, "layers": 1, "decoder_layers": 1, "fusion_layers": 1}


@pytest.mark.parametrize("at", ["s3://bucket/run", "file:///tmp/run", "http://host/run", "ftp://host/run"])
@pytest.mark.parametrize("field", ["train.checkpoints", "tokens.cache"])
def test_places_of_other_schemes(field: str, at: str, mistake: Mistake, tmp_path: Path) -> None:
    line = mistake("train", CONFIG, f"--config.{field}={at}", "--workdir", tmp_path / "run")
    assert line.startswith(f"{field}: ") and at in line and not (tmp_path / "run").exists()
    nested = f"components.visual_tokenizer.config.{field}"
    line = mistake("train", CONFIG, f"--config.{nested}={at}", "--workdir", tmp_path / "run")
    assert line.startswith(f"{nested}: ") and at in line


@pytest.mark.parametrize("command", ["train", "prepare"])
def test_tokens_that_cannot_be_written(command: str, mistake: Mistake, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = tmp_path / "file" / "tokens"
    line = mistake(command, CONFIG, f"--config.tokens.cache={cache}", "--workdir", tmp_path / "run")
    assert line.startswith(f"{cache}/") and not (tmp_path / "run").exists()


@pytest.mark.parametrize("stage", ["", "visual_tokenizer"])
@pytest.mark.parametrize(
    "name", ["config.json/x", "metrics.jsonl/x", "report.html/x", "tokenizer.model/x", "tensorboard", "evaluation",
             "checkpoints", "checkpoints-damaged"]
)  # fmt: skip
def test_files_for_folders_and_folders_for_files(stage: str, name: str, mistake: Mistake, tmp_path: Path) -> None:
    place = tmp_path / stage / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch()
    line = mistake("train", CONFIG, "--workdir", tmp_path)
    assert line.startswith(f"{tmp_path / stage / name.partition('/')[0]}: ")
    assert sorted(tmp_path.rglob("*")) == sorted({place, place.parent, tmp_path / stage} - {tmp_path})  # left nothing


def test_steps_and_data_of_the_last_stage(mistake: Mistake, tmp_path: Path) -> None:
    arguments = ("train", CONFIG, "--workdir", tmp_path / "run")
    assert mistake(*arguments, "--config.optimizer.warmup_steps=9").startswith("optimizer.warmup_steps: 9 ")
    epochs = ("--config.train.steps=0", "--config.train.epochs=1", "--config.optimizer.warmup_steps=8")
    assert mistake(*arguments, *epochs).startswith("optimizer.warmup_steps: 8 ")  # of 64 / 8
    folder = ("--config.data.source=coco_folder", f"--config.data.root={tmp_path / 'none'}")
    evaluators = ("--config.evaluate.evaluators=losses", "--config.train.best_metric=")
    assert str(tmp_path / "none") in mistake(*arguments, *folder, *evaluators)
    assert not (tmp_path / "run").exists()


def test_a_vocabulary_too_small_for_the_captions_of_the_last_stage(
    images: Path, mistake: Mistake, tmp_path: Path
) -> None:
    """The first stage has other captions, or a larger vocabulary."""
    root = shutil.copytree(images, tmp_path / "coco")
    captions = root / "annotations" / "captions_train2017.json"
    signs = "".join(chr(0x4E00 + i) for i in range(200))
    captions.write_text(captions.read_text().replace('"caption": "', f'"caption": "{signs} '))
    config = (f"--config.data.root={root}", "--config.text.vocabulary=300", "--workdir", tmp_path / "run")
    larger = "--config.components.visual_tokenizer.config.text.vocabulary=600"
    line = mistake("train", "--config=configs/coco_masked.py:tiny", larger, *config)
    assert line.startswith("text.vocabulary: 300 ") and not (tmp_path / "run").exists()


def test_weights_of_a_loss_of_a_later_stage(mistake: Mistake, tmp_path: Path) -> None:
    config, inner = "--config=configs/super_resolution.py:tiny", "--config.components.visual_tokenizer.config"
    options = (f"{inner}.losses.perceptual.weight=0.1", f"{inner}.perceptual.weights={tmp_path / 'none'}")
    line = mistake("train", config, *options, "--workdir", tmp_path / "run")
    assert line.startswith("components.visual_tokenizer.config.perceptual.weights: ")
    assert not (tmp_path / "run").exists()


def test_parameters_to_start_from_of_the_last_stage(finished: Path, mistake: Mistake, tmp_path: Path) -> None:
    line = mistake("train", CONFIG, f"--config.train.init_from={finished}", "--workdir", tmp_path / "run")
    assert line.startswith("train.init_from: ") and not (tmp_path / "run").exists()


@pytest.fixture(name="nothing_runs")
def models_that_compute_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told once a model computes, or a checkpoint is restored, is told too late."""

    def late(*arguments: object, **options: object) -> None:
        raise AssertionError("too late")

    for owner, name in [
        (DirectImageGenerator, "generate"),
        (Captioner, "caption"),
        (DualEncoder, "embed_text"),
        (Checkpoints, "restore_params"),
    ]:
        monkeypatch.setattr(owner, name, late)


@pytest.fixture(name="drawing", scope="module")
def model_that_draws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("drawing") / "model", DRAWS, "mean_squared_error")


@pytest.fixture(name="seeing", scope="module")
def model_that_sees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("seeing") / "model", SEES, "captioning", "contrastive")


def written(folder: Path, model: dict[str, object], *losses: str) -> Path:
    text = {"length": 11, "vocabulary": 320}
    config = resolve({"text": text, "model": model, "losses": {name: {} for name in losses}, "train": {"steps": 7}})
    params = jax.device_get(jax.jit(lambda: models.init(config, jax.random.key(5)))())
    write_model_folder(folder, config, params, data.train_tokenizer(["red circles"], 320), 7, {})
    return folder


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--sharpen=9"], "sharpen: amount must be from 0 to 5, not 9"),
        (["--denoise=-1"], "denoise: strength must be from 0 to 100, not -1"),
        (["--out=FOLDER/file/x.png"], "--out FOLDER/file/x.png: "),
        (["--out=FOLDER/file/{}.png"], "--out FOLDER/file/0.png: "),
        (["--out=FOLDER/folder.png"], "--out FOLDER/folder.png: "),
        ([f"--out=FOLDER/{'x' * 250}.png"], f"--out FOLDER/{'x' * 250}.png: "),
        (["--prompts=FOLDER/prompts", "--out=FOLDER/x.jpg"], "--out FOLDER/x.jpg: 256 x 80,032 pixels "),
        (["--prompts=FOLDER/prompts", "--out=FOLDER/x.WEBP"], "--out FOLDER/x.WEBP: 256 x 80,032 pixels "),
    ],
)
def test_how_images_are_written(options: list[str], told: str, drawing: Path, mistake: Mistake, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "prompts").write_text("a red circle\n" * 20_000)
    found = sorted(tmp_path.rglob("*"))
    given = [option.replace("FOLDER", str(tmp_path)) for option in options]
    line = mistake("generate", f"--model={drawing}", "--prompt=a circle", f"--out={tmp_path / 'out.png'}", *given)
    assert line.startswith(told.replace("FOLDER", str(tmp_path))) and sorted(tmp_path.rglob("*")) == found


@pytest.mark.usefixtures("nothing_runs")
def test_an_mp4_without_pyav(drawing: Path, mistake: Mistake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    line = mistake("generate", f"--model={drawing}", "--prompt=a circle", f"--out={tmp_path / 'out.mp4'}")
    assert line.startswith("mp4: PyAV ")


@pytest.mark.usefixtures("nothing_runs")
def test_sheets_that_are_never_written(seeing: Path, images: Path, mistake: Mistake, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    seen, below = images / "train2017", tmp_path / "file" / "x.png"
    describe = ("describe", f"--model={seeing}", "--image", *[seen] * 9)
    assert mistake(*describe[:-8], f"--maps={below}").startswith(f"--maps {below}: ")
    webp = tmp_path / "x.webp"  # 9 x 8 images, but 64 at most
    assert mistake(*describe[:-1], f"--maps={webp}").startswith(f"--maps {webp}: 1,600 x 23,808 pixels ")
    search = ("search", f"--model={seeing}", f"--index={seen}", "--text=a", f"--keep={tmp_path / 'kept'}")
    assert mistake(*search, f"--out={below}").startswith(f"--out {below}: ")
    assert not (tmp_path / "kept").exists()


@pytest.mark.usefixtures("nothing_runs")
def test_model_folders_that_are_never_written(finished: Path, mistake: Mistake, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes").touch()
    for name in ("file", "file/model", "other"):
        out = tmp_path / name
        assert mistake("export", "--workdir", finished, "--out", out).startswith(f"--out {out}: ")


@pytest.mark.usefixtures("nothing_runs")
def test_an_evaluation_that_is_never_written(workdir: Path, mistake: Mistake) -> None:
    shutil.rmtree(workdir / "evaluation")
    (workdir / "evaluation").touch()
    assert mistake("evaluate", "--workdir", workdir).startswith(f"{workdir / 'evaluation'}: ")
