"""A user's own model, loss, evaluator and source, outside of mmjax, by every command; and what strangers may not do."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optax
import pytest
from PIL import Image
from runs import Mistake, metrics

import mmjax
from mmjax import registry
from mmjax.cli import main
from mmjax.config import resolve, to_dict
from mmjax.config.fields import Config
from mmjax.config.known_fields import fields_of, group_of, member_of
from mmjax.export import DirectImageGenerator
from mmjax.train.optimizer import make_optimizer
from mmjax.types import UserError

FOLDER = Path(__file__).parents[1] / "plugins"
README = Path(__file__).parents[2] / "README.md"
CONFIG = "--config=my_config.py"
ALLOWED = "--plugins=my_package"
COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


@pytest.fixture(name="project", scope="module")
def in_a_project_of_its_own() -> Iterator[Path]:
    """The working directory is the user's; what is imported from there is forgotten in the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(FOLDER)
        patch.setattr(sys, "path", [*sys.path])
        yield FOLDER
    forget("my_package")


def forget(package: str) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


@pytest.fixture(name="workdir", scope="module")
def trained(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("plugins") / "run"
    arguments = ["train", CONFIG, f"--workdir={workdir}"]
    assert main([*arguments, "--stop-at=25"]) == 0
    assert main(arguments) == 0  # resumed
    return workdir


@pytest.fixture(name="folder", scope="module")
def exported(workdir: Path) -> Path:
    out = workdir.parent / "model"
    for _ in range(2):  # the second replaces the first
        assert main(["export", f"--workdir={workdir}", f"--out={out}", ALLOWED]) == 0
    return out


def test_each_is_a_file_of_less_than_60_lines() -> None:
    files = sorted(FOLDER.glob("my_package/*.py"))
    assert [path.stem for path in files] == ["__init__", "color_error", "painter", "some_pixels", "squares"]
    assert all(len(path.read_text().splitlines()) < 60 for path in files)
    named = registry.packages(to_dict_of_config())
    assert named == ("my_package",)


def to_dict_of_config() -> dict[str, Any]:
    space: dict[str, Any] = {}
    exec((FOLDER / "my_config.py").read_text(), space)
    found: dict[str, Any] = space["get_config"]().to_dict()
    return found


def test_the_readme_shows_them_as_they_are() -> None:
    blocks = README.read_text().split("```python\n# ")[1:]
    shown = {block.partition("\n")[0]: block.partition("\n")[2].partition("```")[0] for block in blocks}
    assert shown.keys() == {"my_package/some_pixels.py", "my_package/color_error.py", "my_config.py"}
    for name, code in shown.items():
        assert code.strip() in (FOLDER / name).read_text(), name


def test_trained_and_evaluated(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row["step"]: row for row in metrics(workdir) if row["split"] == "evaluation"}
    assert rows.keys() == {25, 50}
    assert rows[50]["color_error"] < rows[25]["color_error"] < 1 and rows[50]["some_pixels"] == rows[50]["loss"] > 0
    expected = json.loads((workdir / "evaluation" / "50.json").read_text())
    capsys.readouterr()
    assert main(["evaluate", f"--workdir={workdir}", ALLOWED]) == 0
    assert f"color_error  {expected['color_error']:.4f}" in capsys.readouterr().out
    np.testing.assert_allclose(json.loads((workdir / "evaluation" / "50.json").read_text())["loss"], expected["loss"])


def test_exported_loaded_and_drawn_with(workdir: Path, folder: Path, tmp_path: Path) -> None:
    model = mmjax.load(folder, plugins=("my_package",))
    assert type(model) is DirectImageGenerator and type(model.config.model).__module__ == "my_package.painter"
    drawn = model.generate(list(COLORS))
    assert drawn.shape == (4, 16, 16, 3) and drawn.dtype == np.uint8
    error = np.abs(drawn.mean(axis=(1, 2)) - np.array(list(COLORS.values()))).mean()
    assert error < 0.45 * 127.5, error  # without the texts at best 3 / 4
    for path in (workdir, folder):
        out = tmp_path / "drawn.png"
        assert main(["generate", f"--model={path}", ALLOWED, "--prompt", "red", f"--out={out}"]) == 0
        with Image.open(out) as image:
            np.testing.assert_array_equal(np.asarray(image), drawn[0])


def test_nothing_of_it_is_imported_unless_it_is_named(
    workdir: Path, folder: Path, tmp_path: Path, mistake: Mistake
) -> None:
    forget("my_package")
    for arguments in (
        ["evaluate", f"--workdir={workdir}"],
        ["export", f"--workdir={workdir}", f"--out={tmp_path / 'model'}"],
        ["generate", f"--model={workdir}", "--prompt=red", f"--out={tmp_path / 'drawn.png'}"],
        ["generate", f"--model={folder}", "--prompt=red", f"--out={tmp_path / 'drawn.png'}", "--plugins=other,my"],
        ["describe", f"--model={folder}", f"--image={tmp_path}"],
        ["search", f"--model={folder}", f"--index={tmp_path}", "--text=red"],
    ):
        line = mistake(*arguments)
        assert "my_package" in line and "--plugins=my_package" in line
    assert not any(name.startswith("my_package") for name in sys.modules)


EVIL = "evil.inner:THING"
WHERE: dict[str, dict[str, Any]] = {
    "model.kind": {"model": {"kind": EVIL}},
    "data.source": {"data": {"source": EVIL}},
    "data.mixture.a.source": {"data": {"source": "mixture", "mixture": {"a": {"source": EVIL}}}},
    f"losses.{EVIL}": {"losses": {EVIL: {"weight": 1.0}}},
    "losses.a.kind": {"losses": {"a": {"kind": EVIL}}},
    "optimizer.kind": {"optimizer": {"kind": EVIL}},
    "sampling.kind": {"sampling": {"kind": EVIL}},
    "evaluate.evaluators": {"evaluate": {"evaluators": ["losses", EVIL]}},
    "components.a.kind": {"components": {"a": {"model": {"kind": EVIL}}}},
    "components.a.config.sampling.kind": {"components": {"a": {"path": "b", "config": {"sampling": {"kind": EVIL}}}}},
    "pretraining.data.source": {"pretraining": {"data": {"source": EVIL}}},
    "pretraining.components.a.config.losses": {
        "pretraining": {"components": {"a": {"config": {"losses": {EVIL: {}}}}}}
    },
}


@pytest.fixture(name="evil")
def package_with_a_side_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], bool]]:
    """Whether the package `evil`, which lies in the working directory, was imported."""
    project, traces = tmp_path / "project", tmp_path / "traces"
    (project / "evil").mkdir(parents=True)
    (project / "evil" / "__init__.py").write_text(f"open({str(traces)!r}, 'w').close()\n")
    (project / "evil" / "inner.py").write_text("THING = 1\n")
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "path", [*sys.path, str(project)])
    yield lambda: traces.exists() or any(name.partition(".")[0] == "evil" for name in sys.modules)
    forget("evil")


@pytest.mark.parametrize("where", WHERE)
def test_a_folder_imports_nothing(where: str, evil: Callable[[], bool], tmp_path: Path, mistake: Mistake) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    content = {"config": {"train": {"steps": 7}} | WHERE[where], "step": 7, "batches": [[0, 64]]}
    (folder / "config.json").write_text(json.dumps(content))
    for arguments in (
        ["generate", f"--model={folder}", "--prompt=red", "--out=drawn.png"],
        ["evaluate", f"--workdir={folder}", "--plugins=other"],
        ["train", f"--workdir={tmp_path / 'run'}", *visual_tokenizer_of(folder, tmp_path)],
    ):
        line = mistake(*arguments)
        assert EVIL in line and "--plugins=evil" in line, line
        if where.startswith(("model", "data", "losses", "optimizer", "sampling", "evaluate")):
            assert f"{where}: " in line
    with pytest.raises(UserError, match="plugins=\\('evil',\\)"):
        mmjax.load(folder, plugins=["other"])
    assert not evil()
    with pytest.raises(UserError):  # it is no model, no loss and so on
        mmjax.load(folder, plugins=["evil"])
    assert evil() or where.startswith(("components", "pretraining"))  # which are wrong in other ways too


def visual_tokenizer_of(folder: Path, tmp_path: Path) -> list[str]:
    """A config that takes its visual tokenizer from a folder."""
    path = tmp_path / "config.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(argument=None):\n"
        "    return ConfigDict({'model': {'kind': 'masked_generator'}, 'train': {'steps': 7},\n"
        f"                       'components': {{'visual_tokenizer': {str(folder)!r}}},\n"
        "                       'losses': {'masked_visual_modeling': {}}})\n"
    )
    return [f"--config={path}"]


def test_no_other_field_takes_dotted_paths() -> None:
    """What check_plugins relies on: other fields are not looked up."""
    tree = {"components": {"a": {}}, "data": {"mixture": {"a": {"source": "scenes"}}}}
    for known in fields_of(Config, tree):
        if "registry" in known.limits and not (group_of(known.hint) or member_of(known.hint)):
            assert known.field.name in registry.NAMED_BY


def test_an_optimizer_and_a_sampler_by_dotted_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_ways.py").write_text(
        "import dataclasses, optax\n"
        "from mmjax.config import OptimizerConfig, SamplingConfig\n"
        "from mmjax.sample import SamplerSpec\n"
        "from mmjax.train.optimizer import OptimizerSpec\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Lion(OptimizerConfig):\n    b3: float = 0.5\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Greedy(SamplingConfig):\n    blocks: int = 3\n"
        "OPTIMIZER = OptimizerSpec(lambda config, schedule: optax.lion(schedule, config.b3), Lion)\n"
        "SAMPLER = SamplerSpec(lambda fns, config: lambda *given: (fns, config.blocks, *given), Greedy)\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    tree = {"optimizer": {"kind": "my_ways:OPTIMIZER", "learning_rate": 0.25}, "sampling": {"kind": "my_ways:SAMPLER"}}
    config = resolve({"train": {"steps": 7}} | tree, {"optimizer.b3": "0.75", "sampling.blocks": "5"})
    found: Any = make_optimizer(config.optimizer, 7)
    params, grads = {"a": np.ones(3, np.float32)}, {"a": np.array([2.0, -3.0, 0.0], np.float32)}
    expected = optax.lion(0.25, 0.75)
    ours, theirs = (tx.update(grads, tx.init(params), params)[0] for tx in (found, expected))
    np.testing.assert_array_equal(ours["a"], theirs["a"])
    spec = registry.find("sampler", config.sampling.kind, "sampling.kind")
    assert spec.make("fns", config.sampling)("params") == ("fns", 5, "params")
    assert resolve(to_dict(config), plugins=("my_ways",)) == config
    with pytest.raises(UserError, match=r"optimizer\.kind: my_ways:SAMPLER must be a OptimizerSpec, not SamplerSpec"):
        resolve({"train": {"steps": 7}, "optimizer": {"kind": "my_ways:SAMPLER"}})
    forget("my_ways")
