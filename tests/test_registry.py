"""Names in configs to what they stand for: tables, dotted paths, and packages that nobody named."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from messages import error_message

from mmjax.config import resolve, to_dict
from mmjax.registry import TABLES, check_plugins, find, packages
from mmjax.types import UserError

# In each table a name with a slip of the pen, and the field that it stands in.
SLIPS = {
    "model": ("direct_genrator", "direct_generator", "model.kind"),
    "loss": ("mean_square_error", "mean_squared_error", "losses.mean_squared_error.kind"),
    "evaluator": ("loses", "losses", "evaluate.evaluators"),
    "source": ("scene", "scenes", "data.source"),
    "optimizer": ("adamv", "adam", "optimizer.kind"),
    "sampler": ("maskgti", "maskgit", "sampling.kind"),
    "family": ("dinov", "dinov2", "model_type"),
}
BASE = {"train": {"steps": 1}}
EVIL = "somebody_elses.code:MODEL"


@pytest.fixture(name="package")
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package of the user's own, in the current folder, that says so when it is imported."""
    (tmp_path / "package_of_mine").mkdir()
    (tmp_path / "package_of_mine" / "inner.py").write_text(
        "import dataclasses\n"
        "from mmjax.train.optimizer import OPTIMIZERS\n"
        "MINE = dataclasses.replace(OPTIMIZERS['adam'])\n"
        "OTHER = 3\n"
    )
    (tmp_path / "package_of_mine" / "broken.py").write_text("raise ValueError('one\\ntwo')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    yield "package_of_mine"
    for name in [name for name in sys.modules if name.split(".")[0] == "package_of_mine"]:
        del sys.modules[name]


def test_there_is_a_case_for_each_table() -> None:
    assert SLIPS.keys() == TABLES.keys()


@pytest.mark.parametrize("table", sorted(SLIPS))
def test_an_unknown_name_is_told_with_the_nearest(table: str) -> None:
    slip, name, field = SLIPS[table]
    entry = find(table, name, field)
    assert type(entry).__name__ == f"{table.capitalize()}Spec"
    message = error_message(find, table, slip, field)
    assert message.startswith(f"{field}: ") and repr(slip) in message and message.endswith(f"did you mean {name}?")
    message = error_message(find, table, "xyzzy", field)
    assert message.startswith(f"{field}: ") and "'xyzzy'" in message and name in message and "did you" not in message
    if table == "family":  # is named by the config.json of others
        return
    in_config = error_message(resolve, BASE, {field: slip})
    assert in_config.startswith(f"{field}: ") and f"did you mean {name}?" in in_config


@pytest.mark.parametrize("table", sorted(SLIPS))
def test_a_dotted_path_must_lead_to_an_entry_of_the_same_type(table: str) -> None:
    field = SLIPS[table][2]
    spec = f"{table.capitalize()}Spec"
    for path in ("os:getcwd", "os:no_such_thing", "no_such_package_at_all.x:Y"):
        message = error_message(find, table, path, field)
        assert message.startswith(f"{field}: ") and path in message
        assert spec in message or path.startswith("no_such")


def test_a_dotted_path_finds_the_users_own_entry(package: str) -> None:
    entry = find("optimizer", f"{package}.inner:MINE", "optimizer.kind")
    assert entry.config.__name__ == "AdamConfig"
    resolved = resolve(BASE, {"optimizer.kind": f"{package}.inner:MINE", "optimizer.b1": "0.7"})
    assert (resolved.optimizer.kind, getattr(resolved.optimizer, "b1", None)) == (f"{package}.inner:MINE", 0.7)
    assert "OptimizerSpec, not int" in error_message(find, "optimizer", f"{package}.inner:OTHER", "optimizer.kind")
    message = error_message(find, "optimizer", f"{package}.broken:MINE", "optimizer.kind")
    assert message.startswith("optimizer.kind: ") and message.endswith("ValueError: one two")


@pytest.mark.parametrize(
    "text", ["a", "a.b", "a:b:c", "a b:C", ":C", "a:", "../a:C", "a..b:C", "a.b:C.d", "1a:B", "gs://x:Y"]
)
def test_what_is_no_dotted_path_is_an_unknown_name(text: str) -> None:
    assert "no model " in error_message(find, "model", text, "model.kind")
    assert packages({"kind": text}) == ()


# Somebody else's config, with code of theirs in every place that can hold it, and the field that is told.
STRANGERS: list[tuple[dict[str, Any], str]] = [
    ({"model": {"kind": EVIL}}, "model.kind"),
    ({"losses": {"mean_squared_error": {"weight": 1.0}, "b": {"kind": EVIL}}}, "losses.b.kind"),
    ({"losses": {EVIL: {}}}, f"losses.{EVIL}"),
    ({"optimizer": {"kind": EVIL}}, "optimizer.kind"),
    ({"sampling": {"kind": EVIL}}, "sampling.kind"),
    ({"data": {"source": EVIL}}, "data.source"),
    ({"data": {"source": "mixture", "mixture": {"mine": {"source": EVIL}}}}, "data.mixture.mine.source"),
    ({"evaluate": {"evaluators": ["losses", EVIL]}}, "evaluate.evaluators"),
    ({"evaluate": {"evaluators": ("losses", EVIL)}}, "evaluate.evaluators"),
    ({"pretraining": {"model": {"kind": EVIL}}}, "pretraining.model.kind"),
    ({"components": {"visual_tokenizer": {"config": {"losses": {"b": {"kind": EVIL}}}}}},
     "components.visual_tokenizer.config.losses.b.kind"),
    ({"components": {"visual_tokenizer": {"model": {"kind": EVIL}}}}, "components.visual_tokenizer.model.kind"),
]  # fmt: skip


@pytest.mark.parametrize(("tree", "field"), STRANGERS)
def test_code_of_a_package_that_was_not_named_is_never_imported(
    tree: dict[str, Any], field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_module = importlib.import_module

    def importing(name: str) -> Any:
        assert not name.startswith("somebody_elses"), "imported"
        return import_module(name)

    monkeypatch.setattr(importlib, "import_module", importing)
    for plugins in ((), ("mmjax",), ("somebody",), ("somebody_elses.code",), ("code",)):
        message = error_message(check_plugins, tree, plugins)
        assert message.startswith(f"{field}: {EVIL} ") and "--plugins=somebody_elses " in message
        assert error_message(resolve, BASE | tree, plugins=plugins) == message
    check_plugins(tree, ("other", "somebody_elses"))
    assert packages(tree) == ("somebody_elses",)
    with pytest.raises(
        (AssertionError, UserError), match="imported"
    ):  # had it been named, or written by the user, it would be
        resolve(BASE | tree, plugins=("somebody_elses",))
    with pytest.raises((AssertionError, UserError), match="imported"):
        resolve(BASE | tree)


def test_text_that_only_looks_like_code_is_let_pass() -> None:
    tree = {"name": EVIL, "data": {"root": EVIL, "options": {"x": EVIL}}, "train": {"init_from": EVIL}}
    check_plugins(tree, ())
    assert packages(tree) == ()


def test_a_saved_config_tells_which_packages_it_needs(package: str) -> None:
    resolved = resolve(BASE, {"optimizer.kind": f"{package}.inner:MINE"})
    saved = json.loads(json.dumps(to_dict(resolved)))
    assert packages(saved) == (package,)
    assert resolve(saved, plugins=[package]) == resolved
    assert error_message(resolve, saved, plugins=[]).startswith("optimizer.kind: ")
