"""Trainings that start from another: coco_pretrain's model becomes one that captions, finds and answers."""

import json
import os
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from runs import Mistake

import mmjax
from mmjax import models
from mmjax.cli import main
from mmjax.config import load_config, resolve
from mmjax.data import train_tokenizer
from mmjax.engine import setup
from mmjax.export import frozen_text
from mmjax.export.model_folder import flatten
from mmjax.types import UserError

QUICK = [f"--config.{field}" for field in (
    "train.steps=1", "train.evaluate_every=1", "train.checkpoint_every=1", "train.best_metric=",
    "evaluate.evaluators=losses", "evaluate.samples=0", "data.evaluation_examples=8", "optimizer.warmup_steps=0",
)]  # fmt: skip
STILL = "--config.optimizer.learning_rate=1e-12"  # nothing moves, so that what was taken can be seen
TASKS = ("coco_caption", "coco_contrastive", "vqa")


def write_coco(root: Path, word: str) -> Path:
    """A COCO folder of eight images and captions with that word, and questions in the layout of A-OKVQA."""
    from PIL import Image

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
    config = ["--config=configs/coco_pretrain.py:tiny", f"--config.data.root={root}"]
    assert main(["train", *config, *QUICK, f"--workdir={base / 'run'}"]) == 0
    return base / "run"


@pytest.fixture(name="root", scope="module")
def other_images_and_captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_coco(tmp_path_factory.mktemp("tasks") / "coco", "vegetable")


def start(pretrained: Path, root: Path, config: str, *more: str) -> list[str]:
    named = [f"--config=configs/{config}", f"--config.data.root={root}", f"--config.train.init_from={pretrained}"]
    return [*named, *QUICK, STILL, *more]


@pytest.mark.parametrize(
    ("config", "fresh"),
    [
        ("coco_caption.py:tiny", []),
        ("coco_contrastive.py:tiny", []),
        ("vqa.py:tiny", []),
        ("vqa.py:tiny,classes=3", ["classifier"]),
    ],
)
def test_each_task_starts_from_the_pretraining(
    config: str, fresh: list[str], pretrained: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir = tmp_path / "run"
    if fresh:  # what is prepared before is the same
        assert main(["prepare", *start(pretrained, root, config), f"--workdir={workdir}"]) == 0
    capsys.readouterr()
    assert main(["train", *start(pretrained, root, config), f"--workdir={workdir}"]) == 0
    told = re.search(r"starts from (\d+) of (\d+) parameters; fresh: (.*)", capsys.readouterr().out)
    before, after = (flatten(mmjax.load(path).params) for path in (pretrained, workdir))
    left = [name for name in after if name.partition("/")[0] in fresh]
    assert told and (int(told[1]), int(told[2])) == (len(after) - len(left), len(after)), told
    assert {name.partition("/")[0] for name in told[3].split(", ")} == ({*fresh} or {"none"})
    for name in after.keys() - {*left}:
        np.testing.assert_allclose(after[name], before[name], atol=1e-9, err_msg=name)
    tokenizers = [(path / "tokenizer.model").read_bytes() for path in (pretrained, workdir)]
    assert tokenizers[0] == tokenizers[1]  # though the captions are others


def test_parameters_of_another_name_and_parameters_left_fresh(
    pretrained: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mistake: Mistake
) -> None:
    arguments = start(pretrained, root, "coco_contrastive.py:tiny", f"--workdir={tmp_path / 'run'}")
    before = flatten(mmjax.load(pretrained).params)
    names = sorted({name.partition("/")[0] for name in before})
    line = mistake("train", *arguments, "--config.model.embedding=8")
    assert "train.init_from: " in line and "(32, 16)" in line and "(32, 8)" in line
    left = re.search(r"--config\.train\.init_rename\.(\w+)=-", line)
    assert left and left[1] in names, line
    heads = [name for name, leaf in before.items() if leaf.shape == (32, 16)]
    renames = [f"--config.train.init_rename.{name.partition('/')[0]}=-" for name in heads]
    capsys.readouterr()
    assert main(["train", *arguments, "--config.model.embedding=8", *renames]) == 0
    told = capsys.readouterr().out
    assert all(name.partition("/")[0] in told.split("fresh: ")[1].split("\n")[0] for name in heads)


def test_another_text_tokenizer_is_refused(pretrained: Path, root: Path, tmp_path: Path, mistake: Mistake) -> None:
    workdir = tmp_path / "run"
    config = ["--config=configs/coco_caption.py:tiny", f"--config.data.root={root}", *QUICK]
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
        "components": {"visual_tokenizer": tokenizer, "text_encoder": {"path": "a", "config": dict_of(theirs)}},
        "train": {"steps": 7},
    })  # fmt: skip
    params = frozen_text.init(theirs, jax.random.key(0))
    frozen_text.write(tmp_path / frozen_text.FILE, frozen_text.FrozenText(theirs, params, one))
    source = setup.data.open_source(config.data, training=True, seed=0)
    with pytest.raises(UserError, match=r"^train\.init_from: .*components\.text_encoder"):
        setup.prepare_tokenizer(tmp_path, config, source, two)
    assert not (tmp_path / "tokenizer.model").exists()
    setup.prepare_tokenizer(tmp_path, config, source, one)
    assert (tmp_path / "tokenizer.model").read_bytes() == one


def dict_of(config: object) -> dict[str, object]:
    from mmjax.config import to_dict

    return to_dict(config)


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
