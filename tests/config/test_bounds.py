"""Bounds of fields: what is outside is told with the field, and nothing else is."""

import dataclasses
import operator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmjax.config import Config, resolve
from mmjax.config.known_fields import fields_of
from mmjax.config.schema import check_bounds, setting
from mmjax.types import UserError

HOLDS = {"above": operator.gt, "at_least": operator.ge, "below": operator.lt, "at_most": operator.le}
NUMBERS = st.one_of(st.integers(-2, 2), st.sampled_from([-0.5, 0.0, 0.5, 1.0, 1.5, 1e9, -1e9, 1e-9]))
LIMITS = st.dictionaries(st.sampled_from(sorted(HOLDS)), NUMBERS)
VALUES = st.one_of(NUMBERS, st.lists(NUMBERS, max_size=3).map(tuple))
BASES: list[dict[str, Any]] = [
    {"optimizer": {"kind": "muon"}},
    {
        "model": {"kind": "vision_language"},
        "losses": {"masked_patch_modeling": {}, "masked_language_modeling": {}, "captioning": {}},
    },
    {"model": {"kind": "visual_tokenizer"}},
    {
        "model": {"kind": "masked_generator"},
        "components": {"visual_tokenizer": {"train": {"steps": 1}, "model": {"kind": "visual_tokenizer"}}},
        "losses": {"masked_visual_modeling": {}},
    },
]  # fmt: skip


def bounded() -> list[tuple[dict[str, Any], str, Any, dict[str, Any]]]:
    """(config, dotted name, type, limits) of each field with bounds."""
    found = []
    for base in BASES:
        for known in fields_of(Config, base):
            if HOLDS.keys() & known.limits.keys():
                found.append((base | {"train": {"steps": 1}}, known.name, known.hint, dict(known.limits)))
    return found


BOUNDED = bounded()


@given(VALUES, LIMITS)
def test_bounds_hold_for_a_number_and_for_each_item_of_a_list(value: Any, limits: dict[str, Any]) -> None:
    items = value if isinstance(value, tuple) else (value,)
    outside = [item for item in items if not all(HOLDS[name](item, bound) for name, bound in limits.items())]
    if not outside:
        check_bounds("a.b", value, limits)
        return
    with pytest.raises(UserError) as error:
        check_bounds("a.b", value, limits)
    message = str(error.value)
    assert message.startswith("a.b: must be ") and message.endswith(f", not {outside[0]}")
    assert all(f"{bound:,}" in message for bound in limits.values())


def test_a_setting_is_a_field_with_its_default_and_limits() -> None:
    cls = dataclasses.make_dataclass(
        "C", [("a", int, setting(3, above=0)), ("b", list, setting(factory=list)), ("c", int, setting(at_most=1))],
        kw_only=True,
    )  # fmt: skip
    assert cls(c=1) == cls(a=3, b=[], c=1)
    assert [dict(f.metadata) for f in dataclasses.fields(cls)] == [{"above": 0}, {}, {"at_most": 1}]
    with pytest.raises(TypeError, match="'c'"):
        cls()


@given(st.sampled_from(range(len(BOUNDED))), st.data())
def test_a_field_outside_its_bounds_is_told_in_a_config_and_on_the_command_line(
    number: int, data: st.DataObject
) -> None:
    base, name, hint, limits = BOUNDED[number]
    past = {"above": (0, -1), "at_least": (-1, -2), "below": (0, 1), "at_most": (1, 2)}
    limit = data.draw(st.sampled_from(sorted(HOLDS.keys() & limits.keys())))
    value: Any = limits[limit] + data.draw(st.sampled_from(past[limit]))
    value = float(value) if hint is float else value
    tree = {key: dict(group) for key, group in base.items()}
    node: Any = tree
    *parents, last = name.split(".")
    for parent in parents:
        node[parent] = node = dict(node.get(parent, {}))
    node[last] = value if hint in (int, float) else [value]
    for arguments in ((tree,), (base, {name: str(value)})):
        with pytest.raises(UserError) as error:
            resolve(*arguments)
        assert str(error.value).startswith(f"{name}: must be ") and str(error.value).endswith(f", not {value}")


def test_fields_of_models_losses_and_optimizers_have_bounds() -> None:
    names = {name for _, name, _, _ in BOUNDED}
    assert {"model.width", "model.levels", "model.text_dropout", "losses.masked_patch_modeling.mask_ratio",
            "losses.captioning.weight", "optimizer.weight_decay", "sampling.steps"} <= names  # fmt: skip
