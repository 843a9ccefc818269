"""Mixtures: which example of which part is where, in what proportion, and what is said of each part."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from every_source import EVALUATION, TOKENIZER, TRAINING, of, take
from hypothesis import given, settings
from hypothesis import strategies as st
from made_data import config_dict, jpeg, write_classes, write_coco, write_vqa

from mmjax import data
from mmjax.data.mixture import MAX_CYCLE, MIN_CYCLE, by_cycles, common_features, concatenated, slots_of
from mmjax.types import Feature, UserError

TWO = {
    "exact": {"source": "scenes", "weight": 3.0, "scenes": {"examples": 11}},
    "open": {"source": "scenes", "scenes": {"examples": 5, "fully_specified": False}},
}


def mixture(parts: dict[str, Any] = TWO, **fields: Any) -> Any:
    return config_dict("mixture", size=32, mixture=parts, **fields)


@settings(max_examples=31)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=5).filter(lambda slots: sum(slots) > 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 10**12),
)
def test_a_part_goes_on_where_the_positions_before_left_it(slots: list[int], seed: int, start: int) -> None:
    """Counted one by one over three cycles, from any cycle on."""
    length = sum(slots)
    first = start // length * length
    positions = np.arange(first, first + 3 * length)
    parts, places = by_cycles(slots, seed)(positions)
    seen = [first // length * count for count in slots]
    for part, place in zip(parts.tolist(), places.tolist(), strict=True):
        assert place == seen[part]
        seen[part] += 1
    assert seen == [(first // length + 3) * count for count in slots]
    some = np.random.default_rng(0).permutation(positions)[:17]
    for position, part, place in zip(some, *by_cycles(slots, seed)(some), strict=True):
        assert (part, place) == (parts[position - first], places[position - first])


def test_each_cycle_and_each_seed_has_an_order_of_its_own() -> None:
    orders = {
        by_cycles((8, 8), seed)(np.arange(16) + 16 * cycle)[0].tobytes() for seed in (0, 1) for cycle in (0, 1, 7)
    }
    assert len(orders) == 6


@pytest.mark.parametrize(
    ("weights", "slots"),
    [
        ([3.0, 1.0], (48, 16)),
        ([0.7, 0.3], (49, 21)),
        ([5.0], (64,)),
        ([1e-5, 3e-5], (16, 48)),
        ([1, 1, 1], (22, 22, 22)),
    ],
)
def test_weights_in_simple_proportions_are_met_exactly(weights: list[float], slots: tuple[int, ...]) -> None:
    assert slots_of([float(weight) for weight in weights]) == slots


@given(st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=7))
def test_any_weights_are_met_to_one_slot(weights: list[float]) -> None:
    slots = slots_of(weights)
    assert MIN_CYCLE <= sum(slots) <= MAX_CYCLE + MIN_CYCLE
    for share, weight in zip(slots, weights, strict=True):
        assert abs(share / sum(slots) - weight / sum(weights)) < 1.001 / MAX_CYCLE


def test_an_evaluation_takes_one_part_after_the_other() -> None:
    parts, places = concatenated([3, 1, 2])(np.arange(6))
    assert parts.tolist() == [0, 0, 0, 1, 2, 2] and places.tolist() == [0, 1, 2, 0, 0, 1]


def test_each_part_gives_in_its_order_what_it_gives_alone(roots: dict[str, Path]) -> None:
    source, config = of("mixture", roots, batch=24)
    batches = take(data.training_batches(source, TOKENIZER, config), 12)
    shown: dict[str, list[tuple[str, bytes]]] = {"coco": [], "shapes": []}
    for batch in batches:
        for i, image in zip(batch["id"], batch["image"], strict=True):
            part, _, name = i.partition("/")
            shown[part].append((name, image.tobytes()))
    counts = {part: len(rows) for part, rows in shown.items()}
    assert sum(counts.values()) == 288 and abs(counts["coco"] / 288 - 2.5 / 3.5) < 0.03
    fields: dict[str, dict[str, Any]] = {
        "coco": {"source": "coco_folder", "root": roots["mixture"], "flip": True},
        "shapes": {"source": "scenes", "scenes": {"examples": 7}},
    }
    for part, given_fields in fields.items():
        alone = config_dict(batch=1, size=32, **given_fields)
        opened = data.open_source(alone.data, True, alone.seed)
        expected = take(data.training_batches(opened, TOKENIZER, alone), counts[part])
        assert [(batch["id"][0], batch["image"][0].tobytes()) for batch in expected] == shown[part]


def test_keys_and_ids_differ_between_parts() -> None:
    config = mixture()
    source = data.open_source(config.data, True, config.seed)
    assert (source.size, tuple(source.features)) == (16, ("image", "text", "scene"))
    spec = data.pipeline.make_read_spec(config.data, 0, 64, 64, 0, 64, True, 3)  # type: ignore[attr-defined]
    (rows,) = source.read(spec)
    named = {(i, key) for i, key in zip(rows["id"], rows["key"].tolist(), strict=True)}
    assert len(named) == len({i for i, _ in named}) == len({key for _, key in named}) == 16
    assert Counter(i.partition("/")[0] for i in rows["id"]) == {"exact": 48, "open": 16}


def test_a_text_tokenizer_sees_the_captions_of_all_parts_in_turn() -> None:
    config = mixture()
    alone = [list(data.open_source(part, True, config.seed).all_captions()) for part in config.data.mixture.values()]
    found = list(data.open_source(config.data, True, config.seed).all_captions())
    assert sorted(found) == sorted(alone[0] + alone[1]) and len(found) == 16
    assert found[:10:2] == alone[0][:5] and found[1:10:2] == alone[1]


def test_an_evaluation_has_the_first_examples_of_each_part(roots: dict[str, Path]) -> None:
    for limit, count in ((0, EVALUATION), (3, 3)):
        source, config = of("mixture", roots, training=False, evaluation_examples=limit)
        assert data.evaluation_size(source, config) == source.size == count + 6
        ids = [i for batch in data.evaluation_batches(source, TOKENIZER, config) for i in batch["id"] if i]
        assert ids[:count] == [f"coco/{100 + i}" for i in range(count)]
        assert ids[count:] == [f"shapes/held-out-scene-{i}" for i in range(6)]


def test_cached_tokens_mix_as_images_do(roots: dict[str, Path]) -> None:
    """The same cache as two parts, one drawn three times as often."""
    parts = {
        name: {"source": "coco_folder", "root": "/gone", "weight": weight} for name, weight in (("a", 3.0), ("b", 1.0))
    }
    config = config_dict("mixture", size=16, mixture=parts, batch=64)
    opened = {name: data.open_tokens(roots["tokens"] / "train", {}) for name in parts}
    source = data.mix(opened, config.data, training=True)
    assert (source.size, tuple(source.features)) == (2 * TRAINING, ("codes", "text"))
    (batch,) = take(data.training_batches(source, TOKENIZER, config), 1)
    assert batch["codes"].shape == (64, 4, 6) and "image" not in batch
    assert Counter(i.partition("/")[0] for i in batch["id"]) == {"a": 48, "b": 16}
    alone, codes = opened["a"], {}
    for rows in alone.read(data.pipeline.make_read_spec(config.data, 0, TRAINING, 1, 0, 1, False, 0)):  # type: ignore[attr-defined]
        codes[rows["id"][0]] = rows["codes"][0]
    assert all(np.array_equal(c, codes[i.partition("/")[2]]) for i, c in zip(batch["id"], batch["codes"], strict=True))


def test_what_a_part_cannot_read_is_counted_for_it_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_coco(tmp_path, "train2017", dict.fromkeys(range(1, TRAINING + 1), b"broken"))
    parts = {**TWO, "coco": {"source": "coco_folder", "root": str(tmp_path), "weight": 0.01, "flip": True}}
    config = mixture(parts, batch=200)
    source = data.open_source(config.data, True, config.seed)
    batches = data.training_batches(source, TOKENIZER, config)
    # A few of two hundred are far fewer than a tenth, but all of their part.
    with pytest.raises(UserError) as error:
        for _ in range(60):
            next(batches)
    message = str(error.value)
    assert message.startswith(
        "data.mixture.coco.source coco_folder: 11 of the first 11 could not be read, more than data."
    )
    assert "raise data.mixture.coco.max_corrupt_fraction" in message and "coco/" in message and "\n" not in message
    assert (
        "data.mixture.coco: image " in caplog.text
        and source.components[0].num_corrupt == source.components[1].num_corrupt == 0
    )


def test_a_mixture_provides_text_questions_and_labels_of_any_part_and_else_what_all_do() -> None:
    scenes, asked, classes, tokens = (
        ("image", "text", "scene"),
        ("image", "question"),
        ("image", "label"),
        ("codes", "text"),
    )

    def common(*components: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(common_features([{name: Feature("text") for name in names} for names in components]))

    assert common(scenes, (*scenes, "question")) == ("image", "text", "scene", "question")
    assert common(asked, scenes, classes) == ("image", "question", "text", "label")
    assert common(tokens, ("image", "text")) == ("text",)
    image, smaller = ({"image": Feature("image", (size, size, 3))} for size in (31, 29))
    with pytest.raises(UserError, match=r"image .*31.*29"):
        common_features([image, smaller])
    with_mask = {**image, "sky": Feature("mask", (31, 31), "image")}
    assert common_features([with_mask, with_mask, image]) == image
    config = mixture({"a": {"source": "scenes", "scenes": {"questions": True}}, "b": {"source": "scenes"}})
    assert tuple(config.data.features) == ("image", "text", "scene", "question")


def test_what_a_part_lacks_is_blank(roots: dict[str, Path]) -> None:
    source, config = of("lacking", roots, batch=24)
    assert tuple(source.features) == tuple(config.data.features) == ("image", "text", "question", "label")
    assert source.classes == ("class 0", "class 1", "class 2")
    counted: Counter[str] = Counter()
    for batch in take(data.training_batches(source, TOKENIZER, config), 4):
        assert {n: (batch[n].dtype, batch[n].shape) for n in ("question", "answer", "text", "label")} == {
            **dict.fromkeys(("question", "answer", "text"), (np.int32, (24, 13))), "label": (np.int32, (24,))
        }  # fmt: skip
        for i, name in enumerate(batch["id"]):
            part = name.partition("/")[0]
            counted[part] += 1
            has = {
                "captions": bool(batch["captions"][i]),
                "question": bool(batch["questions"][i]),
                "label": batch["label"][i] >= 0,
            }
            assert has["captions"] == np.any(batch["text"][i])
            assert has["question"] == np.any(batch["question"][i]) == np.any(batch["answer"][i])
            assert has["question"] == bool(batch["answers"][i])
            expected = {"coco": ("captions",), "asked": ("question",), "named": ("label",)}[part]
            assert all(has[of_part] for of_part in expected)
            assert part == "asked" or sum(has.values()) == 1
            if part == "named":
                assert name.split("/")[1] == source.classes[batch["label"][i]]
    assert all(counted[part] > 20 for part in ("coco", "asked", "named"))


def test_a_batch_of_one_part_has_the_fields_of_all(tmp_path: Path) -> None:
    parts = {"one": {"source": "scenes"}, "other": {"source": "scenes", "scenes": {"questions": True}, "weight": 0.01}}
    config = mixture(parts, batch=1)
    source = data.open_source(config.data, True, config.seed)
    batches = take(data.training_batches(source, TOKENIZER, config), 3)
    assert all(batch["id"][0].startswith("one/") and batch["questions"] == [""] for batch in batches)
    assert not any(np.any(batch["question"]) or np.any(batch["answer"]) for batch in batches)
    assert len({frozenset(batch) for batch in batches}) == 1


def test_parts_with_other_classes_are_one_line(tmp_path: Path) -> None:
    for name, classes in (("a", ("x", "y")), ("b", ("x", "z")), ("c", ("x", "y"))):
        write_classes(tmp_path / name, "train", {one: [number] for number, one in enumerate(classes)})
    parts = {name: {"source": "classes_folder", "root": str(tmp_path / name)} for name in "abc"}
    with pytest.raises(UserError, match=r"data\.mixture\.a, data\.mixture\.b: .* 2 and 2 classes"):
        data.open_source(mixture(parts).data, True, 0)
    del parts["b"]
    write_coco(tmp_path / "q", "train2017", {1: jpeg(1)})
    questions = str(write_vqa(tmp_path / "q", "train2017", [(1, "who?", ["me"])]))
    asked = {"source": "vqa", "root": str(tmp_path / "q"), "questions": questions, "evaluation_questions": questions}
    assert data.open_source(mixture({**parts, "q": asked}).data, True, 0).classes == ("x", "y")
    with pytest.raises(UserError, match="have 2 and 1 classes"):
        data.open_source(mixture({**parts, "q": asked | {"num_answer_classes": 3}}).data, True, 0)
