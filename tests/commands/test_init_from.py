"""Trainings that start from another: coco_pretrain's model becomes one that captions, finds and answers."""

import json
import os
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from runs import Mistake, write_untrained

import mmjax
from mmjax import models
from mmjax.cli import main
from mmjax.config import ComponentConfig, Config, load_config, resolve, to_dict
from mmjax.data import train_tokenizer
from mmjax.engine import setup, trainer
from mmjax.export import frozen_text
from mmjax.export.load import load_params
from mmjax.export.model_folder import flatten
from mmjax.types import UserError

STEP = 1e-3  # more than a parameter moves in the one step of these trainings
TASKS = ("coco_caption", "coco_contrastive", "vqa")


def write_coco(root: Path, word: str) -> Path:
    """A COCO folder of eight images and captions with that word, and questions in the layout of A-OKVQA."""
    (root / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (root / split).mkdir()
        names = {number: f"{number:012d}.jpg" for number in range(1, 9)}
        for number, name in names.items():
            image = np.full((43, 61, 3), number * 29, np.uint8)
            Image.fromarray(image).save(root / split / name)
        images = [{"id": number, "file_name": name} for number, name in names.items()]
        captions = [{"id": n, "image_id": n, "caption": f"{word} number {n} of {word}s"} for n in names]
        content = {"images": images, "annotations": captions}
        (root / "annotations" / f"captions_{split}.json").write_text(json.dumps(content))
        questions = [
            {
                "image_id": n,
                "question_id": f"q{n}",
                "question": f"which {word}?",
                "direct_answers": [f"the {n % 3}", "it"],
            }
            for n in names
        ]
        (root / "annotations" / f"aokvqa_{split}.json").write_text(json.dumps(questions))
    return root


@pytest.fixture(name="pretrained", scope="module")
def pretrained_workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("pretrained")
    root = write_coco(base / "coco", "animal")
    write_untrained(base / "run", "configs/coco_pretrain.py:tiny", (1,), **{"data.root": str(root)})
    return base / "run"


@pytest.fixture(name="root", scope="module")
def other_images_and_captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("tasks") / "coco", "vegetable")


@pytest.mark.parametrize("task", ["coco_caption", *(pytest.param(task, marks=pytest.mark.slow) for task in TASKS[1:])])
def test_each_task_starts_from_the_pretraining(
    task: str, pretrained: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # The programs are those of test_configs, so that they are compiled once.
    config = [f"--config=configs/{task}.py:tiny", f"--config.data.root={root}"]
    arguments = [*config, f"--config.train.init_from={pretrained}", f"--workdir={tmp_path / 'run'}"]
    if task == "vqa":  # what is prepared before is the same
        assert main(["prepare", *arguments]) == 0
    capsys.readouterr()
    assert main(["train", *arguments, "--stop-at=1"]) == 0
    before, after = (flatten(mmjax.load(path).params) for path in (pretrained, tmp_path / "run"))
    assert f"starts from {len(after)} of {len(after)} parameters; fresh: none" in capsys.readouterr().out
    for name, leaf in after.items():
        np.testing.assert_allclose(leaf, before[name], atol=STEP, err_msg=name)
    tokenizers = [(path / "tokenizer.model").read_bytes() for path in (pretrained, tmp_path / "run")]
    assert tokenizers[0] == tokenizers[1]  # though the captions are others


def first_params(config: Config, pretrained: Path) -> dict[str, np.ndarray]:
    experiment = setup.build(config)
    state = trainer.first_state(load_params(pretrained), experiment, trainer.build(experiment, config.train.steps))
    return flatten(jax.device_get(state.params))


def told_fresh(out: str) -> set[str]:
    return {name.partition("/")[0] for name in out.split("fresh: ")[1].split("\n")[0].split(", ")}


def test_what_the_pretraining_lacks_is_fresh(pretrained: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config("configs/vqa.py:tiny,classes=3", {"data.root": str(root)})
    found, before = first_params(config, pretrained), load_params(pretrained)
    fresh = {name for name in found if name not in flatten(before)}
    assert {name.partition("/")[0] for name in fresh} == told_fresh(capsys.readouterr().out) != {"none"}


def test_parameters_that_are_renamed_or_left_fresh(
    pretrained: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = flatten(load_params(pretrained))
    overrides = {"data.root": str(root), "model.embedding": "8", "train.init_from": str(pretrained)}
    with pytest.raises(UserError) as error:
        first_params(load_config("configs/coco_contrastive.py:tiny", overrides), pretrained)
    asked = re.match(r"train\.init_from: (\S+) of .*\(32, 16\).*\(32, 8\).*init_rename\.(\w+)=-", str(error.value))
    assert asked and asked[1].partition("/")[0] == asked[2]
    heads = {"image_projection", "text_projection"}
    overrides |= {f"train.init_rename.{name}": "-" for name in heads} | {
        "train.init_rename.text_pooling": "image_pooling"
    }
    capsys.readouterr()
    found = first_params(load_config("configs/coco_contrastive.py:tiny", overrides), pretrained)
    assert told_fresh(capsys.readouterr().out) == heads
    for name, leaf in found.items():
        if name.partition("/")[0] not in heads:
            theirs = before[name.replace("text_pooling", "image_pooling")]
            np.testing.assert_array_equal(leaf, theirs, err_msg=name)
    assert np.any(before["text_pooling/query"] != before["image_pooling/query"])


def test_another_text_tokenizer_is_refused(pretrained: Path, root: Path, tmp_path: Path, mistake: Mistake) -> None:
    workdir = tmp_path / "run"
    config = ["--config=configs/coco_caption.py:tiny", f"--config.data.root={root}"]
    assert main(["prepare", *config, f"--workdir={workdir}"]) == 0  # without init_from: of its own captions
    own = (workdir / "tokenizer.model").read_bytes()
    line = mistake("train", *config, f"--config.train.init_from={pretrained}", f"--workdir={workdir}")
    assert line.startswith("train.init_from: ") and str(workdir / "tokenizer.model") in line
    assert (workdir / "tokenizer.model").read_bytes() == own != (pretrained / "tokenizer.model").read_bytes()


def test_that_of_a_frozen_text_encoder_is_refused_as_well(tmp_path: Path) -> None:
    one, two = (train_tokenizer([f"{word} {i}" for i in range(30)], 300) for word in ("animal", "vegetable"))
    text_model = {"kind": "vision_language", "width": 16, "heads": 2, "text_layers": 1}
    theirs = resolve({"model": text_model, "losses": {"contrastive": {}}, "train": {"steps": 7}})
    tokenizer = {"model": {"kind": "visual_tokenizer"}, "train": {"steps": 7}}
    config = resolve({
        "model": {"kind": "masked_generator"},
        "losses": {"masked_visual_modeling": {}},
        "components": {"visual_tokenizer": tokenizer, "text_encoder": {"path": "a", "config": to_dict(theirs)}},
        "train": {"steps": 7},
    })  # fmt: skip
    component = ComponentConfig(config=theirs)
    params = frozen_text.init(component, jax.random.key(0))
    frozen_text.write(tmp_path / frozen_text.FILE, frozen_text.FrozenText(component, params, one))
    source = setup.data.open_source(config.data, training=True, seed=0)
    with pytest.raises(UserError, match=r"^train\.init_from: .*components\.text_encoder"):
        setup.prepare_tokenizer(tmp_path, config, source, two)
    assert not (tmp_path / "tokenizer.model").exists()
    setup.prepare_tokenizer(tmp_path, config, source, one)
    assert (tmp_path / "tokenizer.model").read_bytes() == one


def test_what_training_starts_from_is_checked_before_a_component_is_trained(
    pretrained: Path, tmp_path: Path, mistake: Mistake
) -> None:
    config = ["--config=configs/quickstart.py:tiny", f"--workdir={tmp_path / 'run'}"]
    nowhere = tmp_path / "nowhere"
    assert mistake("train", *config, f"--config.train.init_from={nowhere}").startswith(f"{nowhere}: ")
    other = shutil.copytree(pretrained, tmp_path / "other", ignore=shutil.ignore_patterns("checkpoints"))
    (other / "tokenizer.model").write_bytes(train_tokenizer([f"vegetable {i}" for i in range(30)], 300))
    text = f"--config.components.text_encoder={pretrained}"
    for command in ("prepare", "train"):
        line = mistake(command, *config, text, f"--config.train.init_from={other}")
        assert line.startswith("train.init_from: ") and "components.text_encoder" in line
    assert not (tmp_path / "run" / "visual_tokenizer").exists()


@pytest.mark.parametrize("form", ["", ":size=64", ":tiny", ":size=64,tiny"])
@pytest.mark.parametrize("name", TASKS)
def test_every_form_fits_that_of_the_pretraining(name: str, form: str) -> None:
    """Vocabulary, texts and the shapes of all parameters that both have."""
    root = {"data.root": os.devnull}
    ours, theirs = (load_config(f"configs/{each}.py{form}", root) for each in (name, "coco_pretrain"))
    assert ours.text == theirs.text
    shapes = [flatten(jax.eval_shape(lambda c=c: models.init(c, jax.random.key(0)))) for c in (ours, theirs)]
    for parameter, leaf in shapes[0].items():
        assert parameter in shapes[1] and shapes[1][parameter].shape == leaf.shape, parameter
