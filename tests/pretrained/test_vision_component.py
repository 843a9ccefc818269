"""Pretrained image encoders as parts of vision-language models: features, frozen or trained, written back."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from folders import PIXELS, REFERENCES
from messages import error_message
from safetensors.numpy import load_file

import mmjax
from mmjax import models, pretrained
from mmjax.cli import main
from mmjax.config import Config, MeshConfig, load_config, resolve, to_dict
from mmjax.engine import components, setup, trainer, vision_encoder
from mmjax.export.model_folder import flatten
from mmjax.models.pretrained_encoder import PretrainedVision, tower, tower_shapes
from mmjax.parallel import make_mesh, match_rules

TINY = "configs/quickstart_describe.py:tiny"
TOWERS = ["clip", "clip_vision", "dinov2", "dinov2_with_registers", "siglip", "vit", "vit_classifier"]


def copied(folder: Path, name: str) -> Path:
    shutil.copytree(REFERENCES / name, folder / name)
    (folder / name / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    return folder / name


def resolved(folder: Path, workdir: Path, **overrides: str) -> Config:
    named = {"components.vision_encoder": str(folder)}
    named |= {name.replace("__", "."): value for name, value in overrides.items()}
    return components.resolve_config(load_config(TINY, named), workdir)


@pytest.mark.parametrize("name", [name for name in TOWERS if name != "vit_classifier"])
def test_features_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    """Normalized and projected; also of images of another size than the encoder was trained with."""
    config = resolved(copied(tmp_path, name), tmp_path)
    given = tower(config, trained=False)
    assert given is not None
    reference = load_file(REFERENCES / name / "reference.safetensors")
    image, wanted = reference["image"], reference["image_tokens"]
    patches = image.shape[1] * image.shape[2] // given.patch**2
    module = PretrainedVision(given, patches, 7)
    checkpoint = pretrained.open_checkpoint(tmp_path / name)
    params: Any = jax.jit(module.init)(jax.random.key(1), image)["params"]
    params = {**params, "tower": pretrained.load(checkpoint, only=tower_shapes(given))}
    found = np.asarray(jax.jit(module.apply)({"params": params}, image))
    features = wanted[:, -patches:]
    centered = features - features.mean(axis=-1, keepdims=True)
    normalized = centered / np.sqrt(np.square(centered).mean(axis=-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(found, normalized @ np.asarray(params["project"]["kernel"]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", TOWERS)
def test_every_parameter_has_a_place_on_the_mesh(name: str, tmp_path: Path) -> None:
    config = resolved(copied(tmp_path, name), tmp_path)
    shapes = jax.eval_shape(lambda: models.init(config, jax.random.key(1)))
    rules = models.sharding_rules(config)
    placed = match_rules(shapes, rules, make_mesh(MeshConfig(8, 1, 1)))
    loaded = vision_encoder.load_params(config, placed)
    assert loaded.keys() == {each for each in flatten(shapes) if each.startswith("vision/tower/")}
    for each, leaf in loaded.items():
        assert leaf.shape == flatten(shapes)[each].shape and leaf.sharding == flatten(placed)[each]


@pytest.mark.parametrize("fine_tune", [False, True])
def test_only_what_is_fine_tuned_changes(fine_tune: bool, tmp_path: Path) -> None:
    """And back into a folder, with what the model did not take of it."""
    folder = copied(tmp_path, "clip")
    config = components.resolve_config(resolve({
        "data": {"source": "scenes", "size": 32},
        "model": {"kind": "vision_language", "width": 8, "heads": 2, "text_layers": 1, "fine_tune": fine_tune},
        "losses": {"contrastive": {}},
        "optimizer": {"kind": "adamw", "learning_rate": 0.1, "weight_decay": 0.1},
        "train": {"batch": 8, "steps": 3},
        "components": {"vision_encoder": str(folder)},
    }), tmp_path)  # fmt: skip
    experiment = setup.build(config)
    training = trainer.build(experiment, 3)
    encoder = vision_encoder.load_params(config, experiment.params)
    state = trainer.first_state(None, experiment, training, encoder)
    before = {name: np.asarray(leaf) for name, leaf in flatten(state.params).items()}
    for name, leaf in encoder.items():
        np.testing.assert_array_equal(before[name], leaf)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.uniform(-1, 1, (8, 32, 32, 3)).astype(np.float32),
        "text": rng.integers(1, 300, (8, config.text.length), dtype=np.int32),
        "mask": np.ones(8, np.bool_),
        "key": np.arange(8, dtype=np.uint32),
    }
    state, metrics = training.step(state, experiment.placement.shard_batch(batch))
    after = {name: np.asarray(leaf) for name, leaf in flatten(state.params).items()}
    changed = {name for name in after if (after[name] != before[name]).any()}
    assert np.isfinite(metrics["loss"]) and "vision/project/kernel" in changed
    trained = {name for name in changed if name.startswith("vision/tower/")}
    assert (len(trained) > 10) == fine_tune and fine_tune == bool(trained)
    assert not any("projection" in name for name in trained)
    moments = {leaf.shape for leaf in jax.tree.leaves(state.opt_state)}
    assert (after["vision/tower/vision/embedding/patches/kernel"].shape in moments) == fine_tune
    vision_encoder.write(tmp_path / "out", config, state.params)
    was, now = (flatten(pretrained.load(pretrained.open_checkpoint(each))) for each in (folder, tmp_path / "out"))
    for name, leaf in now.items():
        np.testing.assert_array_equal(leaf, after.get(f"vision/tower/{name}", was[name]))


@pytest.mark.slow  # waits for a training
def test_from_a_folder_to_captions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, workdir, out = copied(tmp_path, "clip"), tmp_path / "run", tmp_path / "out"
    given = [f"--config.components.vision_encoder={folder}", "--config.model.fine_tune=true"]
    assert main(["train", f"--config={TINY}", *given, f"--workdir={workdir}"]) == 0
    model = mmjax.load(workdir)
    images = np.zeros((2, *model.config.data.image_shape), np.uint8)
    images[1, :9] = 255
    embedded = model.embed_image(images)
    assert main(["export", f"--workdir={workdir}", "--formats=hugging_face", f"--out={out}"]) == 0
    written, params = flatten(pretrained.load(pretrained.open_checkpoint(out))), flatten(model.params)
    assert any((np.asarray(leaf) == params.get(f"vision/tower/{name}")).all() for name, leaf in written.items())
    shutil.rmtree(folder)
    capsys.readouterr()
    assert main(["train", f"--config={TINY}", *given, f"--workdir={workdir}"]) == 0
    assert "done already" in capsys.readouterr().out
    assert main(["export", f"--workdir={workdir}", f"--out={tmp_path / 'model'}"]) == 0
    np.testing.assert_array_equal(mmjax.load(tmp_path / "model").embed_image(images), embedded)
    assert (embedded[0] != embedded[1]).any()


def test_what_is_refused(tmp_path: Path) -> None:
    folder = copied(tmp_path, "vit")
    assert "data.size: must be a multiple of 4" in error_message(resolved, folder, tmp_path, data__size="34")
    assert "vision_encoder" in error_message(load_config, TINY, {"model.fine_tune": "true"})
    bert = tmp_path / "bert"
    shutil.copytree(REFERENCES / "bert", bert)
    assert "encodes no images" in error_message(resolved, bert, tmp_path)
    assert "no folder in Hugging Face's layout" in error_message(resolved, tmp_path, tmp_path)
    resnet = copied(tmp_path, "resnet")
    assert "no features of the patches" in error_message(resolved, resnet, tmp_path)
    plain = to_dict(load_config(TINY))
    inner = {"model": plain["model"], "losses": plain["losses"], "train": {"steps": 4}}
    assert "not a config" in error_message(resolve, plain | {"components": {"vision_encoder": inner}})
    staged = components.resolve_config(
        resolve({**plain, "pretraining": plain | {"components": {"vision_encoder": str(folder)}}}), tmp_path
    )
    assert staged.pretraining is not None and staged.pretraining.components["vision_encoder"].pretrained is not None
    low_rank = resolved(folder, tmp_path, lora__rank="2", train__init_from="x", optimizer__kind="adamw")
    assert "vision/tower" in error_message(setup.check, low_rank)
    (folder / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json" in error_message(resolved, folder, tmp_path)
