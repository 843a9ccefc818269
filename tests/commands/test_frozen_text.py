"""Training with a frozen text encoder by the commands: what is cached, what is kept, what draws, what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import Mistake, Run, noise, saved_state
from safetensors.numpy import load_file, save_file

import mmjax
from mmjax import data, models
from mmjax.cli import main
from mmjax.config import load_config, resolve, to_dict
from mmjax.engine import components
from mmjax.export import frozen_text, write_model_folder
from mmjax.export.model_folder import flatten
from mmjax.models import text_encoder
from mmjax.models.text_encoder import TextEncoder
from mmjax.train.workdir import read_config

pytestmark = pytest.mark.slow  # all wait for a preparation and a training

CONFIG = "--config=configs/quickstart.py:tiny"
PROMPTS = ["a red circle left of a blue square", "a green ring", ""]


@pytest.fixture(name="model", scope="module")
def folder_of_a_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That gives its visual tokenizer as well as its text encoder; its parameters are random."""
    folder, config = tmp_path_factory.mktemp("model") / "quickstart", load_config("configs/quickstart.py:tiny")
    tokenizer = config.component("visual_tokenizer")
    assert tokenizer is not None
    own, codes = (jax.jit(lambda c=c: models.init(c, jax.random.key(1)))() for c in (config, tokenizer))
    params = jax.device_get({**own, "visual_tokenizer": codes})
    source = data.open_source(config.data, training=True, seed=0)
    write_model_folder(folder, config, params, data.train_tokenizer(source.all_captions(), 512), 0, {})
    return folder


@pytest.fixture(name="another")
def other_parameters(model: Path, tmp_path: Path) -> Path:
    folder = shutil.copytree(model, tmp_path / "another")
    params = load_file(folder / "model.safetensors")
    save_file({**params, "text/embedding": params["text/embedding"] + np.float32(1e-3)}, folder / "model.safetensors")
    return folder


def given(model: Path) -> list[str]:
    return [CONFIG, f"--config.components.visual_tokenizer={model}", f"--config.components.text_encoder={model}",
            "--config.model.width=24", "--config.model.layers=1", "--config.train.evaluate_every=4"]  # fmt: skip


@pytest.fixture(name="trained", scope="module")
def trained_with_a_model_that_is_gone(model: Path, tmp_path_factory: pytest.TempPathFactory, run: Run) -> Path:
    """Of another width than the text encoder; prepared in a process before."""
    base = tmp_path_factory.mktemp("trained")
    named = shutil.copytree(model, base / "quickstart")
    for command in ("prepare", "train"):
        done = run(command, *given(named), "--workdir", base / "run")
        assert noise(done.stderr) == []
        if command == "prepare":
            before = {path: path.stat().st_mtime_ns for path in (base / "run").rglob("*.safetensors")}
    assert {path: path.stat().st_mtime_ns for path in before} == before and len(before) == 5
    shutil.rmtree(named)
    return base / "run"


@pytest.fixture(name="exported", scope="module")
def folder_of_the_trained(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    assert main(["export", f"--workdir={trained}", f"--out={folder}"]) == 0
    return folder


def test_the_encoder_is_kept_as_it_was_and_not_trained(trained: Path, model: Path) -> None:
    kept, theirs = frozen_text.read(trained / "text_encoder.safetensors"), mmjax.load(model)
    jax.tree.map(np.testing.assert_array_equal, kept.params, theirs.params["text"])
    assert (trained / "tokenizer.model").read_bytes() == theirs.tokenizer.proto == kept.tokenizer
    state = saved_state(trained, 4)
    names = {name for name in state if "['text']" in name and "params" in name}
    assert {name.partition("['text']")[2] for name in names} == {
        "['null_embedding']", "['norm']['bias']", "['norm']['scale']", "['project']['bias']", "['project']['kernel']"
    }  # fmt: skip
    assert not any("['text']['stack']" in name or "['embedding']" in name.partition("['text']")[2] for name in state)
    assert not {x.shape for x in jax.tree.leaves(kept.params) if x.ndim > 2} & {x.shape for x in state.values()}


def test_the_cache_holds_what_the_encoder_gives(trained: Path, model: Path) -> None:
    config, theirs = read_config(trained), mmjax.load(model)
    source = components.sources(config, trained, components.trained(config, trained), ["evaluation"])[0]
    assert source.text_features is not None
    texts = [*dict.fromkeys(source.all_captions()), ""]
    ids = theirs.tokenizer.encode(texts, config.text.length)
    encoder = TextEncoder(**dataclasses.asdict(text_encoder.settings(theirs.config)))
    expected = np.asarray(encoder.apply({"params": theirs.params["text"]}, jnp.asarray(ids))[0])
    found = source.text_features(texts)
    assert found.dtype == np.float16 and found.shape == expected.shape == (len(texts), 12, 32)
    np.testing.assert_allclose(found, np.where((ids != 0)[..., None], expected, 0), rtol=2e-3, atol=2e-3)
    index = json.loads((trained / "tokens" / "text" / "index.json").read_text())
    training = data.open_source(config.data, training=True, seed=config.seed)
    captions = {"", *texts, *training.all_captions()}
    assert sum(shard["size"] for shard in index["shards"]) == len(captions)


def test_it_draws_from_text_alone(trained: Path, exported: Path) -> None:
    names = ["README.md", "config.json", "model.safetensors", "tokenizer.model"]
    assert sorted(path.name for path in exported.iterdir()) == names
    drawn = mmjax.load(exported)
    names = {name for name in load_file(exported / "model.safetensors") if name.startswith("text_encoder/")}
    assert names == {f"text_encoder/{name}" for name in flatten(drawn.components["text_encoder"])}
    images = drawn.generate(PROMPTS, seed=3)
    assert images.shape == (3, 32, 32, 3) and (images[0] != images[1]).any()
    np.testing.assert_array_equal(mmjax.load(trained).generate(PROMPTS, seed=3), images)
    told_apart = drawn.generate(PROMPTS[:2], [3, 3])
    assert (told_apart[0] != told_apart[1]).any()


def test_evaluating_needs_neither_the_model_nor_the_data_set(trained: Path, run: Run) -> None:
    expected = (trained / "evaluation" / "4.json").read_text()
    assert "scenes/all" in expected and "scenes/diversity" in expected
    (trained / "evaluation" / "4.json").unlink()
    assert noise(run("evaluate", "--workdir", trained).stderr) == []
    assert (trained / "evaluation" / "4.json").read_text() == expected


def test_the_same_command_finds_all_done(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *given(trained.parent / "quickstart"), f"--workdir={trained}"]) == 0
    assert "quickstart: step 4 of 4 is done already" in capsys.readouterr().out


def test_a_frozen_encoder_can_be_taken_on(trained: Path, exported: Path, tmp_path: Path) -> None:
    given = {"components": to_dict(read_config(trained))["components"] | {"text_encoder": str(exported)}}
    config = components.resolve_config(resolve(to_dict(read_config(trained)) | given), trained)
    theirs = config.component("text_encoder")
    assert theirs is not None
    assert text_encoder.settings(theirs) == text_encoder.settings(read_config(trained))
    components.copied_text_encoder(config, tmp_path)
    kept, before = (frozen_text.read(folder / "text_encoder.safetensors") for folder in (tmp_path, trained))
    jax.tree.map(np.testing.assert_array_equal, kept.params, before.params)
    assert kept.tokenizer == before.tokenizer


def test_another_encoder_is_refused(
    trained: Path, model: Path, another: Path, tmp_path: Path, mistake: Mistake
) -> None:
    names = [argument for argument in given(model) if "text_encoder" not in argument]
    other = f"--config.components.text_encoder={another}"
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    line = mistake("train", *names, other, "--workdir", trained)
    assert line == f"--workdir {trained}: has another text encoder than {another}; name another one"
    line = mistake("train", *names, "--workdir", trained)
    assert line.startswith(f"--workdir {trained}: holds another config: components.text_encoder")
    cache = trained / "tokens"
    line = mistake("train", *names, other, f"--config.tokens.cache={cache}", "--workdir", tmp_path / "run")
    assert line.startswith(f"{cache / 'text'}: holds other text features: text_encoder.params was ")
    assert {path: path.read_bytes() for path in before} == before
    assert not (tmp_path / "run" / "config.json").exists() and not (tmp_path / "run" / "checkpoints").exists()


def test_an_encoder_that_is_none(trained: Path, model: Path, tmp_path: Path, mistake: Mistake) -> None:
    command = ("train", CONFIG, "--workdir", tmp_path / "run")
    line = mistake(*command, "--config.components.text_encoder=/nowhere")
    assert line == "/nowhere: no config.json there; name a workdir of mmjax train or a folder of mmjax export"
    folder = trained / "visual_tokenizer"
    line = mistake(*command, f"--config.components.text_encoder={folder}")
    assert "visual_tokenizer" in line and "text encoder" in line
    named = f"--config.components.text_encoder={model}"
    terms = "--config.losses.masked_language_modeling.weight=0.1"
    line = mistake(*command, named, terms)
    assert line.startswith("losses.masked_language_modeling: ") and "components.text_encoder" in line
    line = mistake("train", "--config=configs/quickstart_describe.py:tiny", named, "--workdir", tmp_path / "run")
    assert line.startswith("components.text_encoder: ") and "model.kind=vision_language" in line
    assert not (tmp_path / "run").exists()
    half = shutil.copytree(trained, tmp_path / "half", ignore=shutil.ignore_patterns("tokens", "tensorboard"))
    (half / "text_encoder.safetensors").write_bytes(b"half")
    assert mistake("generate", "--model", half, "--prompt", "a ring", "--out", tmp_path / "x.png") == (
        f"{half / 'text_encoder.safetensors'}: is no text encoder of mmjax, or only half of one; name another --workdir"
    )
