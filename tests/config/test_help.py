"""`--help-config`: every field of a config, with its documentation."""

import dataclasses
import typing
from pathlib import Path

import pytest

from mmjax import registry
from mmjax.cli import main
from mmjax.config import Config, resolve
from mmjax.config.known_fields import describe, documentation, group_of, member_of
from mmjax.types import UserError

TABLES = ("model", "loss", "optimizer", "sampler")  # whose entries have fields of their own


def config_classes() -> set[type]:
    found: set[type] = set()
    waiting = [Config, *(spec.config for name in TABLES for spec in registry.table(name).values())]
    while waiting:
        if (cls := waiting.pop()) not in found:
            found.add(cls)
            hints = typing.get_type_hints(cls).values()
            waiting += [group for hint in hints if (group := group_of(hint) or member_of(hint))]
    return found


def test_every_field_has_documentation() -> None:
    classes = config_classes()
    assert len(classes) > 20 and {"TrainConfig", "MuonConfig", "MixtureComponent"} <= {c.__name__ for c in classes}
    fields = [(cls, field.name) for cls in classes for field in dataclasses.fields(cls)]
    assert [(cls.__name__, name) for cls, name in fields if not documentation(cls, name)] == []


def test_documentation_of_a_field_may_be_shared_continued_or_inherited() -> None:
    @dataclasses.dataclass
    class Base:
        """A base.

        Attributes:
            one, two: of both, on a line
                and another.
            three: the third.
        """

    class Derived(Base):
        """Derived.

        Attributes:
            three: another third.
        """

    shared = "of both, on a line and another."
    assert [documentation(Base, name) for name in ("one", "two", "three")] == [shared, shared, "the third."]
    assert [documentation(Derived, name) for name in ("two", "three", "line")] == [shared, "another third.", ""]


def test_fields_are_those_of_the_kinds_that_the_config_names() -> None:
    lines = describe(
        {
            "model": {"kind": "masked_generator"},
            "losses": {"codes": {"kind": "masked_visual_modeling"}},
            "optimizer": {"kind": "muon"},
            "components": {"visual_tokenizer": "somewhere"},
        }
    ).splitlines()
    assert "model.width: int = 512, above 0 and at most 32,768" in lines
    assert any(line.startswith("model.kind: str = 'masked_generator', of direct_generator, ") for line in lines)
    assert "losses.codes: MaskedVisualModelingConfig" in lines
    assert "losses.codes.mask_schedule: 'cosine' | 'arccos' = 'cosine'" in lines
    assert "losses.codes.label_smoothing: float = 0.1, at least 0 and below 1" in lines
    assert lines[lines.index("optimizer.weight_decay: float = 0.0, at least 0") + 1] == "    of kernels only."
    assert "components.visual_tokenizer.path: str = ''" in lines
    default = describe({}).splitlines()
    assert "losses.mean_squared_error.weight: float = 1.0, above 0" in default
    assert "model.decoder_widths: list of int = [64, 32], above 0 and at most 16,384" in default


@pytest.mark.parametrize("command", ["train", "prepare", "plan"])
def test_the_command_needs_only_a_config_even_a_wrong_one(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(argument=None):\n"
        "    return ConfigDict({'train': {'stepz': 7}, 'model': {'kind': 'vision_language'}})\n"
    )
    assert main([command, f"--config={path}", "--help-config"]) == 0
    printed = capsys.readouterr().out
    assert "train.steps: int = 0, at least 0 and at most 2,147,483,647\n" in printed
    assert "model.fusion_layers: int" in printed


def test_unknown_fields_point_to_it() -> None:
    for tree, overrides in (({"train": {"qqq": 7}}, {}), ({}, {"train.qqq": "7"})):
        with pytest.raises(UserError, match=r"train\.qqq: no such field; .*--help-config") as error:
            resolve({"train": {"steps": 7}} | tree, overrides)
        assert "\n" not in str(error.value)
