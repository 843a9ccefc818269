"""Model folders, configs and inputs of strangers: what cannot be right is told in one line before it is used."""

import contextlib
import dataclasses
import itertools
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from special_files import ENDLESS

import mmjax
from mmjax import data, models
from mmjax.cli import main
from mmjax.config import Config, load_config, resolve, to_dict
from mmjax.config.load import split_argument
from mmjax.export import write_model_folder
from mmjax.export.load import load_params
from mmjax.export.loaded import seeds_of
from mmjax.models.masked_generator import TOKENIZER
from mmjax.sample import masked
from mmjax.train.checkpoint import Checkpoints
from mmjax.train.state import make_state
from mmjax.train.workdir import open_workdir
from mmjax.types import Params, UserError

CAPTIONS = ["a small red circle", "a large blue square", "a green triangle"] * 3
SMALL: dict[str, Any] = {"data": {"size": 32}, "text": {"length": 7, "vocabulary": 320}, "train": {"steps": 1}}
VISUAL = SMALL | {
    "model": {"kind": "visual_tokenizer", "widths": [8, 8], "levels": [3, 5]},
    "losses": {"mean_absolute_error": {}},
}
CONFIG = SMALL | {
    "model": {"kind": "masked_generator", "width": 16, "heads": 2, "layers": 1, "text_layers": 1, "text_dropout": 0.1},
    "components": {TOKENIZER: VISUAL},
    "losses": {"masked_visual_modeling": {}},
    "sampling": {"steps": 2},
}  # fmt: skip
DIRECT = SMALL | {
    "model": {"width": 16, "heads": 2, "text_layers": 1, "vision_layers": 1, "fusion_layers": 1,
              "decoder_widths": [8, 8]},
}  # fmt: skip
KERNEL = "text/stack/block/mlp_in/kernel"


def random_params(config: Config) -> Params:
    draw, shapes = np.random.default_rng(0), jax.eval_shape(lambda: models.init(config, jax.random.key(0)))
    return dict(jax.tree.map(lambda leaf: draw.normal(size=leaf.shape).astype(np.float32), shapes))


@pytest.fixture(name="folder", scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, config = tmp_path_factory.mktemp("strangers") / "model", resolve(CONFIG)
    component = config.component(TOKENIZER)
    assert component is not None
    params = random_params(config) | {TOKENIZER: random_params(component)}
    write_model_folder(folder, config, params, data.train_tokenizer(CAPTIONS, 320), 1, {})
    return folder


@pytest.fixture(name="workdir", scope="module")
def saved_workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a direct generator with a checkpoint at step 1."""
    workdir, config = tmp_path_factory.mktemp("strangers") / "workdir", resolve(DIRECT)
    open_workdir(workdir, config)
    (workdir / "tokenizer.model").write_bytes(data.train_tokenizer(CAPTIONS, 320))
    params = random_params(config)
    state = make_state(lambda key: jax.tree.map(jnp.asarray, params), optax.sgd(0.1), 0, False)()
    checkpoints = Checkpoints(workdir)
    checkpoints.save(state.replace(step=jnp.int32(1)), {})
    checkpoints.close()
    return workdir


@pytest.fixture(name="copy")
def changeable_copy(folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(folder, tmp_path / "model")


def told(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The one line of a user's mistake."""
    assert main(list(map(str, arguments))) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("mmjax: ")
    return lines[0]


def generate(folder: Path, *more: Any) -> list[Any]:
    return ["generate", "--model", folder, "--prompt", "a red circle", "--out", folder.parent / "drawn.png", *more]


def change_config(folder: Path, dotted: str, value: Any) -> None:
    tree = json.loads((folder / "config.json").read_text())
    node = tree["config"]
    *parents, last = dotted.split(".")
    for parent in parents:
        node = node[parent]
    node[last] = value
    (folder / "config.json").write_text(json.dumps(tree))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(value: float, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = load_file(copy / "model.safetensors")
    arrays[KERNEL].flat[3] = value
    save_file(arrays, copy / "model.safetensors")
    assert f"model.safetensors: {KERNEL} holds NaN or infinite numbers" in told(capsys, *generate(copy))
    with pytest.raises(UserError, match=KERNEL):  # what initializes a training
        load_params(copy)


def rewrite_dtypes(path: Path, dtype: str, size: int) -> None:
    """Writes a file of the same names and shapes, of zeros of a type that NumPy may not have."""
    arrays, header, at = load_file(path), {}, 0
    for name, array in arrays.items():
        end = at + array.size * size
        header[name], at = {"dtype": dtype, "shape": array.shape, "data_offsets": [at, end]}, end
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(at))


@pytest.mark.parametrize(("dtype", "size"), [
    ("I8", 1), ("U8", 1), ("I64", 8), ("BOOL", 1), ("F8_E4M3", 1), ("F8_E5M2", 1), ("C64", 8), ("X9", 4),
])  # fmt: skip
def test_weights_that_are_no_floating_point_numbers(
    dtype: str, size: int, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite_dtypes(copy / "model.safetensors", dtype, size)
    line = told(capsys, *generate(copy))
    assert "model.safetensors: " in line and dtype in line


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_weights_of_other_floating_point_types_are_read(dtype: Any, copy: Path) -> None:
    path = copy / "model.safetensors"
    save_file({name: array.astype(dtype) for name, array in load_file(path).items()}, path)
    assert mmjax.load(copy).params[KERNEL.split("/")[0]]


def test_a_tokenizer_of_a_larger_vocabulary(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions = [f"{first}{second}{third}" for first in "abcdef" for second in "ghijkl" for third in "mnopqr"]
    larger = data.train_tokenizer(captions, 380)
    (copy / "tokenizer.model").write_bytes(larger)
    size = data.load_tokenizer(larger).size
    assert size > 320
    assert f"tokenizer.model: has {size} tokens, text.vocabulary is 320" in told(capsys, *generate(copy))


@given(st.one_of(st.integers(2**31 - 1, 2**70), st.integers(-(2**70), -1)))
def test_seeds_that_random_keys_cannot_take_are_refused(seed: int) -> None:
    with pytest.raises(UserError, match="seed"):
        seeds_of(seed, 2)
    with pytest.raises(UserError, match="seed"):
        seeds_of([0, seed + 1 if seed > 0 else seed], 2)
    if not 0 <= seed < 2**32:
        with pytest.raises(UserError, match=r"^seed: "):
            resolve(SMALL | {"seed": seed})


@given(st.integers(0, 2**31 - 6))
def test_seeds_of_prompts_are_distinct_and_those_given(seed: int) -> None:
    assert seeds_of(seed, 5).tolist() == list(range(seed, seed + 5))


@pytest.mark.parametrize("seed", [2**31, 2**63, 2**64, -1])
def test_a_seed_on_the_command_line(seed: int, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "mmjax: seed: " in told(capsys, *generate(folder, f"--seed={seed}"))


VISUAL_MODEL = "components.visual_tokenizer.config.model"
TOO_LARGE = {
    "model.width": 10**12, "model.layers": 10**5, "model.local_blocks": 10**5, "text.length": 10**6,
    "text.vocabulary": 10**12, "train.batch": 10**9, "evaluate.batch": 10**9, "data.size": 16_384,
    "sampling.steps": 10**6, "sampling.refinement_steps": 10**6, f"{VISUAL_MODEL}.blocks": 10**5,
    f"{VISUAL_MODEL}.levels": [10**12], f"{VISUAL_MODEL}.widths": [10**9],
    "optimizer.learning_rate": 10**400, "train.log_every": 10**400, "sampling.guidance": 10**30,
}  # fmt: skip


@pytest.mark.parametrize("field", TOO_LARGE)
def test_sizes_have_bounds(field: str, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_config(copy, field, TOO_LARGE[field])
    assert f"config.json: {field}" in told(capsys, *generate(copy))


def test_a_config_of_other_shapes_is_told_from_the_header(
    copy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    change_config(copy, "model.width", 8_192)  # gigabytes, were it built
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes())
    assert "has shape" in told(capsys, *generate(copy))


@pytest.mark.parametrize(("command", "field", "value"), [
    ("export", "model.width", 32), ("evaluate", "model.fusion_layers", 2), ("generate", "text.vocabulary", 640),
])  # fmt: skip
def test_checkpoints_of_another_model(
    command: str, field: str, value: int, workdir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(workdir, tmp_path / "copy")
    change_config(copy, field, value)
    arguments = {
        "export": ["export", "--workdir", copy, "--out", tmp_path / "out"],
        "evaluate": ["evaluate", "--workdir", copy],
        "generate": generate(copy),
    }
    line = told(capsys, *arguments[command])
    assert f"{copy / 'checkpoints'}: " in line and "has shape" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", ENDLESS)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.model", "model.safetensors"])
def test_files_that_never_end(name: str, make: Any, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / name).unlink()
    make(copy / name)
    assert str(copy / name) in told(capsys, *generate(copy))


@pytest.mark.parametrize("make", ENDLESS)
def test_prompts_that_never_end(make: Any, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "prompts.txt")
    assert str(tmp_path / "prompts.txt") in told(capsys, *generate(folder, "--prompts", tmp_path / "prompts.txt"))


def nested(depth: int, inside: str) -> bytes:
    return ('{"config": ' + '{"a": ' * depth + inside + "}" * depth + "}").encode()


@pytest.mark.parametrize("content", ids=itertools.count(), argvalues=[
    nested(1, "1").decode().encode("utf-16"), nested(1, "1").decode().encode("utf-32"), b"\xff\xfe\xfa",
    nested(900, "1"), nested(100_000, "1"), nested(1, "9" * 5_000), nested(40, "[]"), b"", b"[]", b'{"config": []}',
    b'{"config": {"pretraining": ' * 2 + b"{}" + b"}" * 4, nested(1, "[" * 50 + "]" * 50),
    ('{"config": ' + '{"pretraining": ' * 300 + "{}" + "}" * 301).encode(), b'{"config": {"text": {"length": NaN}}}',
])  # fmt: skip
@pytest.mark.parametrize("command", ["generate", "export", "evaluate", "train"])
def test_configs_that_are_none(command: str, content: bytes, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "config.json").write_bytes(content)
    arguments = {
        "generate": generate(copy),
        "export": ["export", "--workdir", copy, "--out", copy / "out"],
        "evaluate": ["evaluate", "--workdir", copy],
        "train": ["train", "--config=configs/scenes_direct.py:tiny", "--workdir", copy],
    }
    assert "config.json: " in told(capsys, *arguments[command])


@pytest.mark.parametrize("text", ids=itertools.count(), argvalues=[
    "def get_config(argument):\n    return 10**5000".encode("utf-16"), b"x = " + b"9" * 5_000, b"\xff\xfe",
    b"from ml_collections import ConfigDict\ndef get_config(argument):\n"
    b"    tree = {}\n    for i in range(900):\n        tree = {'a': tree}\n    return ConfigDict(tree)",
    b"from ml_collections import ConfigDict\ndef get_config(argument):\n"
    b"    return ConfigDict({'train': {'steps': 10**5000}})",
    b"(" * 5_000,
])  # fmt: skip
def test_config_files_that_are_none(text: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "odd.py").write_bytes(text)
    told(capsys, "train", f"--config={tmp_path / 'odd.py'}", "--workdir", tmp_path / "workdir")
    assert not (tmp_path / "workdir").exists()


OPTIONS = ("--guidance", "--temperature", "--refinement-temperature", "--steps")
VALUES = ("1e39", "1e30", "nan", "inf", "-1", "1e-44")


@pytest.mark.parametrize(
    ("option", "value"),
    sorted({*itertools.product(OPTIONS, VALUES)} - {("--guidance", "1e-44")}),  # that is 0
)
def test_sampling_that_overflows(option: str, value: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(capsys, *generate(folder, option, value))


def test_no_more_steps_than_tokens(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = mmjax.load(folder)
    tokens = 8 * 8
    model.generate(["a red circle"], steps=tokens + 1)
    (line,) = caplog.messages
    assert line.startswith("sampling.steps: ") and f"{tokens + 1}" in line and f" {tokens} " in line
    many = dataclasses.replace(model.config.sampling, steps=tokens + 1)
    assert masked._capped(many, tokens).steps == masked._capped(many, tokens + 1).steps - 1 == tokens


@pytest.mark.parametrize(("text", "split"), [
    ("2024:05:01/r.py:tiny", ("2024:05:01/r.py", "tiny")),
    ("2024:05:01/r.py", ("2024:05:01/r.py", "")),
    ("r.py:a=1:2,b", ("r.py", "a=1:2,b")),
    ("r.py", ("r.py", "")),
])  # fmt: skip
def test_colons_in_the_path_of_a_config(text: str, split: tuple[str, str], tmp_path: Path) -> None:
    assert split_argument(text) == split
    file = tmp_path / split[0]
    file.parent.mkdir(exist_ok=True)
    file.write_text(
        "from ml_collections import ConfigDict\ndef get_config(argument):\n"
        "    return ConfigDict({'name': argument or 'none', 'train': {'steps': 1}})"
    )
    assert load_config(f"{tmp_path}/{text}").name == (split[1] or "none")


JUNK = [None, True, -1, 2**63, 10**400, 10**5_000, 1e39, float("nan"), "", "x:y", "\x1b[31m", "\ud800", [], [[]],
        [None], {}, {"kind": 5}, {"kind": []}, {"": None}, [10**12]]  # fmt: skip


@given(st.data())
def test_junk_in_a_config_is_taken_or_told(data: st.DataObject) -> None:
    tree = to_dict(resolve(CONFIG))
    node = tree
    while True:
        name = data.draw(st.sampled_from(sorted(node)))
        if not node[name] or not isinstance(node[name], dict) or data.draw(st.booleans()):
            break
        node = node[name]
    node[name] = data.draw(st.sampled_from(JUNK))
    with contextlib.suppress(UserError):
        resolve(tree, plugins=())
