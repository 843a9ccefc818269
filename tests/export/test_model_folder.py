"""Model folders: exact, whole or not at all, and clear about what is wrong with one."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from made_folder import CONFIG, PROMPTS, REFERENCE, told
from safetensors.numpy import load_file, save_file

import mmjax
from mmjax import models
from mmjax.config import ComputeConfig, Config, resolve, to_dict
from mmjax.export import DirectImageGenerator, ImageTokenizer, write_model_folder
from mmjax.export.load import _loadable
from mmjax.export.model_folder import FILES, flatten, read_params
from mmjax.train.checkpoint import Checkpoints
from mmjax.train.state import State
from mmjax.train.workdir import open_workdir
from mmjax.types import Params

OWN = tuple(name for name in FILES if name != "tokenizer.json")  # that of a pretrained text encoder
VISUAL_TOKENIZER: dict[str, Any] = {
    "name": "codes",
    "data": {"size": 32},
    "model": {"kind": "visual_tokenizer", "widths": [8, 8], "levels": [5, 3]},
    "losses": {"mean_squared_error": {}},
    "train": {"steps": 7},
}
GENERATOR: dict[str, Any] = {
    "name": "clips",
    "data": {"size": 32, "frames": 5},
    "text": {"length": 11, "vocabulary": 320},
    "model": {"kind": "masked_generator", "width": 16, "heads": 2, "layers": 2, "text_layers": 1},
    "components": {"visual_tokenizer": {**VISUAL_TOKENIZER, "data": {"size": 32, "frames": 5},
                                        "model": {**VISUAL_TOKENIZER["model"], "time_strides": [1, 2]}}},
    "losses": {"masked_visual_modeling": {}},
    "sampling": {"steps": 2},
    "train": {"steps": 7},
}  # fmt: skip


def test_the_round_trip_is_exact(folder: Path, model: DirectImageGenerator, config: Config, params: Params) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(OWN)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["model"]
    assert model.config == config
    jax.tree.map(np.testing.assert_array_equal, model.params, params)
    assert jax.tree.structure(model.params) == jax.tree.structure(params)
    about = json.loads((folder / "config.json").read_text())
    assert about["step"] == 7 and about["versions"]["jax"] == jax.__version__ and about["config"] == to_dict(config)
    card = (folder / "README.md").read_text()
    assert "# small" in card and "| scenes/all | 0.9877 |" in card and "32 x 32 pixels" in card
    assert f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,} parameters, 7 steps" in card


@pytest.mark.parametrize(
    "data",
    [
        {"source": "emoji"},
        {
            "source": "mixture",
            "mixture": {"a": {"source": "emoji"}, "b": {"source": "scenes"}, "c": {"source": "emoji"}},
        },
    ],
)
def test_the_card_names_whom_the_data_are_of(
    tmp_path: Path, config: Config, params: Params, tokenizer: bytes, data: dict[str, Any]
) -> None:
    drawn = resolve({"data": data, "model": {"reference": ""}, "train": {"steps": 1}}).data
    write_model_folder(tmp_path / "model", dataclasses.replace(config, data=drawn), params, tokenizer, 7, {})
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.count("Training data: All emojis designed by OpenMoji") == 1 and "License: CC BY-SA 4.0\n" in card


def test_the_card_of_drawn_data_names_nobody(folder: Path) -> None:
    assert "Training data" not in (folder / "README.md").read_text()


def test_bfloat16_is_kept_exactly(tmp_path: Path, config: Config, tokenizer: bytes) -> None:
    every_bit = np.arange(2**16, dtype=np.uint16).view(ml_dtypes.bfloat16)
    finite = every_bit[np.isfinite(every_bit)].reshape(255, 256)
    params = {"a": {"kernel": finite}, "b": finite.T}
    write_model_folder(tmp_path / "m", config, params, tokenizer, 1, {})
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    found = read_params(tmp_path / "m" / "model.safetensors", shapes)
    for was, now in zip(jax.tree.leaves(params), jax.tree.leaves(found), strict=True):
        assert now.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(was.view(np.uint16), now.view(np.uint16))


def test_the_folder_gives_the_pixels_of_the_checkpoint(
    tmp_path: Path, model: DirectImageGenerator, config: Config, params: Params, tokenizer: bytes
) -> None:
    open_workdir(tmp_path, config)
    (tmp_path / "tokenizer.model").write_bytes(tokenizer)
    checkpoints = Checkpoints(tmp_path)
    rng = jax.random.key_data(jax.random.key(0))
    other = jax.tree.map(jnp.zeros_like, params)  # the averaged ones count
    checkpoints.save(State(jnp.int32(7), other, (), params, rng, jnp.int32(0)), {})
    checkpoints.save(State(jnp.int32(8), params, (), other, rng, jnp.int32(0)), {})
    checkpoints.close()
    images = model.generate(PROMPTS, reference=REFERENCE)
    np.testing.assert_array_equal(mmjax.load(tmp_path, 7).generate(PROMPTS, reference=REFERENCE), images)
    assert (mmjax.load(tmp_path).generate(PROMPTS, reference=REFERENCE) != images).any()
    assert "no checkpoint of step 5; there are 7, 8" in told(mmjax.load, tmp_path, 5)


def test_a_model_runs_wherever_it_is_loaded(
    copy: Path, model: DirectImageGenerator, config: Config, params: Params, tokenizer: bytes
) -> None:
    compute = ComputeConfig(dtype="bfloat16", attention="cudnn", convolution="native", remat=True, unroll=3)
    trained = dataclasses.replace(config, compute=compute)
    assert _loadable(trained).compute.attention == _loadable(trained).compute.convolution == "auto"
    write_model_folder(copy, trained, params, tokenizer, 7, {})
    found = mmjax.load(copy)
    assert found.config == dataclasses.replace(config, compute=ComputeConfig(dtype="bfloat16"))
    assert found.compute.attention == "xla" and found.compute.dtype == np.dtype(ml_dtypes.bfloat16)
    drawn, expected = found.generate(PROMPTS), model.generate(PROMPTS)
    assert drawn.shape == (3, 32, 32, 3) and (drawn != expected).any()
    assert np.abs(drawn.astype(int) - expected).max() < 16  # 8 bits of mantissa


@pytest.fixture(name="visual_tokenizer", scope="module")
def folder_of_a_visual_tokenizer(tmp_path_factory: pytest.TempPathFactory, tokenizer: bytes) -> Path:
    config = resolve(VISUAL_TOKENIZER)
    params = jax.device_get(jax.jit(lambda: models.init(config, jax.random.key(5)))())
    folder = tmp_path_factory.mktemp("export") / "a folder of another name"
    write_model_folder(folder, config, params, tokenizer, 7, {})
    return folder


def test_a_visual_tokenizer_does_not_draw_from_text(visual_tokenizer: Path) -> None:
    model = mmjax.load(visual_tokenizer)
    assert type(model) is ImageTokenizer and not hasattr(model, "generate")


def code_of_the_card(folder: Path) -> str:
    return (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]


def test_the_code_of_the_card_runs(folder: Path, visual_tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, Any] = {}
    monkeypatch.chdir(folder)
    exec(code_of_the_card(folder), found)
    assert found["drawn"].shape == (1, 32, 32, 3) and found["drawn"].dtype == np.uint8
    assert "A direct generator of mmjax: text and a reference image in" in (folder / "README.md").read_text()
    monkeypatch.chdir(visual_tokenizer)
    exec(code_of_the_card(visual_tokenizer), found)
    assert found["codes"].shape == (1, 8, 8) and found["codes"].dtype == np.int32
    assert found["images"].shape == (1, 32, 32, 3) and found["images"].dtype == np.uint8
    card = (visual_tokenizer / "README.md").read_text()
    assert "A visual tokenizer of mmjax: images of 32 x 32 pixels to 8 x 8 codes, each one of 15, and back" in card
    assert "int32 [1, 8, 8]" in card


def random_tree(config: Config) -> Params:
    """Parameters that nothing was computed for."""
    rng = np.random.default_rng(7)
    shapes = jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    return jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype), shapes)


def test_the_folder_of_a_masked_generator_holds_its_visual_tokenizer(
    tmp_path: Path, tokenizer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = resolve(GENERATOR)
    inner = config.component("visual_tokenizer")
    assert inner is not None
    ours, theirs = random_tree(config), random_tree(inner)
    folder = tmp_path / "model"
    write_model_folder(folder, config, {**ours, "visual_tokenizer": theirs}, tokenizer, 7, {})
    assert sorted(path.name for path in folder.iterdir()) == sorted(OWN)
    found = mmjax.load(folder)
    assert found.config == config
    jax.tree.map(np.testing.assert_array_equal, (found.params, found.components["visual_tokenizer"]), (ours, theirs))
    card = (folder / "README.md").read_text()
    assert "A masked generator of mmjax: text in, a clip of 5 frames of 32 x 32 pixels out." in card
    count = sum(leaf.size for leaf in jax.tree.leaves((ours, theirs)))
    assert f"{count:,} parameters, 7 steps" in card
    seen: dict[str, Any] = {}
    monkeypatch.chdir(folder)
    exec(code_of_the_card(folder), seen)
    assert seen["drawn"].shape == (1, 5, 32, 32, 3) and seen["drawn"].dtype == np.uint8
    write_model_folder(folder, config, ours, tokenizer, 7, {})
    assert "has no parameter visual_tokenizer/" in told(mmjax.load, folder)


def test_the_card_of_a_tokenizer_of_clips(tmp_path: Path, tokenizer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    config = resolve(GENERATOR).component("visual_tokenizer")
    assert config is not None
    write_model_folder(tmp_path / "model", config, random_tree(config), tokenizer, 7, {})
    card = (tmp_path / "model" / "README.md").read_text()
    assert "clips of 5 frames of 32 x 32 pixels to 3 x 8 x 8 codes, each one of 15, and back" in card
    seen: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path / "model")
    exec(code_of_the_card(tmp_path / "model"), seen)
    assert seen["codes"].shape == (1, 3, 8, 8) and seen["clips"].shape == (1, 5, 32, 32, 3)


def test_a_step_is_of_a_workdir_and_a_workdir_may_have_none_yet(
    copy: Path, tmp_path: Path, config: Config, tokenizer: bytes
) -> None:
    assert told(mmjax.load, copy, 7) == (
        f"{copy}: a model folder holds one step only; give step with a workdir, or leave it out"
    )
    workdir = tmp_path / "workdir"
    open_workdir(workdir, config)
    none = f"{workdir / 'checkpoints'}: no checkpoint "
    assert told(mmjax.load, workdir).startswith(f"{workdir}: no checkpoint ")
    (workdir / "tokenizer.model").write_bytes(tokenizer)
    assert told(mmjax.load, workdir) == told(mmjax.load, workdir, 3)
    (workdir / "checkpoints").mkdir()
    assert told(mmjax.load, workdir).startswith(none)


def test_parameters_that_do_not_fit(copy: Path) -> None:
    path = copy / "model.safetensors"
    whole = load_file(path)
    name = "text/stack/block/mlp_in/kernel"
    save_file({key: value for key, value in whole.items() if key != name}, path)
    assert told(mmjax.load, copy) == f"{path}: has no parameter {name}; is it of another config?"
    save_file(whole | {"more": np.zeros(3)}, path)
    assert told(mmjax.load, copy) == f"{path}: has an unexpected parameter more; is it of another config?"
    save_file(whole | {name: whole[name].T.copy()}, path)
    assert told(mmjax.load, copy) == f"{path}: {name} has shape (64, 16, 1), the config says (1, 16, 64)"


def test_files_that_are_broken_or_missing(copy: Path, tmp_path: Path) -> None:
    path = copy / "model.safetensors"
    whole = path.read_bytes()
    for content in (b"", whole[:5], whole[: len(whole) // 2], b"\xff" * 100, b"{}"):
        path.write_bytes(content)
        assert told(mmjax.load, copy).startswith(f"{path}: cannot be read (")
    path.unlink()
    assert told(mmjax.load, copy).startswith(f"{path}: no such file; a model folder needs it")
    path.write_bytes(whole)
    half = (copy / "config.json").read_text()
    (copy / "config.json").write_text(half[: len(half) // 2])
    assert told(mmjax.load, copy) == f"{copy / 'config.json'}: not a config.json of mmjax, or a truncated one"
    (copy / "config.json").unlink()
    assert "no config.json there" in told(mmjax.load, copy)
    (copy / "config.json").write_text(half)
    (copy / "tokenizer.model").write_bytes(b"no tokenizer")
    assert "not a SentencePiece model" in told(mmjax.load, copy)
    (copy / "tokenizer.model").unlink()
    assert f"{copy / 'tokenizer.model'}: no such file" in told(mmjax.load, copy)
    assert "no such folder" in told(mmjax.load, tmp_path / "nowhere")
    assert "is a file" in told(mmjax.load, copy / "config.json")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("files", "found"), [
    ({"notes.txt": "mine"}, "holds other files: notes.txt"),
    ({"README.md": "mine"}, "exists and is no model folder"),
    ({"config.json": "{}", "model.safetensors": "another's", "tokenizer.model": "another's", "README.md": "another's"},
     "exists and is no model folder"),
    ({"config.json": json.dumps({"config": CONFIG}), "tokenizer.model": "a workdir that was only prepared"},
     "exists and is no model folder"),
    ({"config.json": json.dumps({"config": CONFIG}), "model.safetensors": "", "checkpoints/4/state": ""},
     "holds other files: checkpoints"),
    ({"config.json": json.dumps({"config": CONFIG}), "model.safetensors": "", "e": "", "d": "", "c": "", "b": "",
      "a": ""}, "holds other files: a, b, c and 2 more"),
])  # fmt: skip
def test_a_folder_that_is_something_else_is_left_alone(
    files: dict[str, str], found: str, tmp_path: Path, config: Config, params: Params, tokenizer: bytes
) -> None:
    for name, content in files.items():
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text(content)
    before = contents(tmp_path)
    message = told(write_model_folder, tmp_path / "out", config, params, tokenizer, 7, {})
    assert message == f"--out {tmp_path / 'out'}: {found}; name another one"
    assert contents(tmp_path) == before


def test_a_model_folder_and_an_empty_one_are_replaced(copy: Path, config: Config, tokenizer: bytes) -> None:
    params = {"w": np.float32([1, 2])}
    (copy.parent / "empty").mkdir()
    for folder in (copy, copy.parent / "empty"):
        write_model_folder(folder, config, params, tokenizer, 9, {})
        assert list(load_file(folder / "model.safetensors")) == ["w"]
        assert json.loads((folder / "config.json").read_text())["step"] == 9
    assert sorted(path.name for path in copy.parent.iterdir()) == ["empty", "model"]


def test_what_cannot_be_written_leaves_the_old_folder(
    copy: Path, config: Config, params: Params, tokenizer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(copy.parent)

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmjax.export.model_folder.save_file", full)
    assert "cannot be written: [Errno 28] No space" in told(write_model_folder, copy, config, params, tokenizer, 9, {})
    assert contents(copy.parent) == before
    assert "README.md: is a file; name" in told(
        write_model_folder, copy / "README.md", config, params, tokenizer, 9, {}
    )
    inside = copy / "README.md" / "out"
    assert "cannot be written" in told(write_model_folder, inside, config, params, tokenizer, 9, {})


@pytest.mark.parametrize("file", OWN)
def test_a_file_that_cannot_be_moved_into_its_place_leaves_the_old_folder(
    file: str, copy: Path, config: Config, params: Params, tokenizer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, rename = contents(copy.parent), Path.rename

    def busy(path: Path, target: Path) -> Path:
        if path.name == file and path.parent.name == ".partial":
            raise OSError(16, "Device or resource busy")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", busy)
    assert "resource busy" in told(write_model_folder, copy, config, params, tokenizer, 9, {})
    assert contents(copy.parent) == before


def test_names_of_parameters() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": 2}}}) == {"a/b": 1, "a/c/d": 2}
