"""Masks, boxes and other images follow their image through every transform, alone and in batches of a source."""

import dataclasses
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import outfits
import pytest
from every_source import TOKENIZER, joined, same, take
from hypothesis import given, settings
from hypothesis import strategies as st
from made_data import config_dict
from PIL import Image

from mmjax.config import Config
from mmjax.data import evaluation_batches, open_source, training_batches
from mmjax.data.image import decode_mask
from mmjax.data.source import ReadSpec, check_features
from mmjax.data.transforms import (
    Example,
    Window,
    crop_and_flip,
    crop_boxes,
    crop_mask,
    draws,
    flip_boxes,
    pad_boxes,
)
from mmjax.types import Feature, UserError

SHAPES = [(67, 101), (101, 67), (41, 41), (211, 149)]
SIZE, RESIZE = 31, 37


def drawn(height: int, width: int, box: tuple[float, float, float, float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image that is white within a box and black elsewhere, the mask of what is white, and the box itself."""
    top, bottom = (round(edge * height) for edge in (box[0], box[2]))
    left, right = (round(edge * width) for edge in (box[1], box[3]))
    image = np.zeros((height, width, 3), np.uint8)
    image[top:bottom, left:right] = 255
    return image, image[..., 0] // 255, np.array([[top / height, left / width, bottom / height, right / width]])


def check_follows(image: np.ndarray, mask: np.ndarray, box: np.ndarray | None) -> None:
    """The mask and the box are where the image is white, to within a pixel at the edges."""
    size_y, size_x = mask.shape
    white = image[..., 0] > 127
    if white.shape == mask.shape:
        # Antialiasing blurs the edges: only pixels all of whose neighbors are alike must agree.
        padded = np.pad(white, 1, mode="edge")
        near = np.stack([padded[i : i + size_y, j : j + size_x] for i in range(3) for j in range(3)])
        assert (mask[near.all(0)] == 1).all() and (mask[~near.any(0)] == 0).all()
    rows, columns = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
    if box is None:
        assert len(rows) <= 1 or len(columns) <= 1
    elif len(rows):
        y, x = white.shape
        seen = rows[0] / y, columns[0] / x, (rows[-1] + 1) / y, (columns[-1] + 1) / x
        assert np.abs(np.subtract(seen, box) * [y, x, y, x]).max() <= 1.5


@settings(max_examples=150, deadline=None)
@given(
    shape=st.sampled_from(SHAPES),
    other=st.sampled_from([1, 2, Fraction(3, 2)]),
    corner=st.tuples(st.floats(0, 0.7), st.floats(0, 0.7)),
    side=st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)),
    key=st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 99), st.integers(0, 2**62)),
    training=st.booleans(),
    target=st.sampled_from([(31, 31), (43, 31), (29, 37)]),
)
def test_a_mask_and_a_box_follow_their_image_through_every_transform(
    shape: tuple[int, int],
    other: Fraction,
    corner: tuple[float, float],
    side: tuple[float, float],
    key: tuple[int, int, int],
    training: bool,
    target: tuple[int, int],
) -> None:
    box = (*corner, min(corner[0] + side[0], 1.0), min(corner[1] + side[1], 1.0))
    image, mask, boxes = drawn(*shape, box)
    larger, _, _ = drawn(int(shape[0] * other), int(shape[1] * other), tuple(boxes[0].tolist()))
    features = {
        "small": Feature("image", (target[0] // 2, target[1] // 2, 3), of="image"),  # before the image it is of
        "image": Feature("image", (*target, 3)),
        "same": Feature("image", (*target, 3), of="image"),
        "where": Feature("mask", target, of="image"),
        "finer": Feature("mask", (2 * target[0], 2 * target[1]), of="image"),
        "boxes": Feature("boxes", (2, 4), of="image"),
        "absent": Feature("mask", target, of="image"),
    }
    example: Example = {"image": image, "same": larger, "small": larger, "where": mask, "finer": mask, "boxes": boxes}
    spec = ReadSpec(lambda: iter(()), training, 0, SIZE, RESIZE, True)
    for transform in crop_and_flip(spec, features):
        example = transform(example | {"absent": None}, key)
        (padded, *_), (valid, *_) = pad_boxes(example["boxes"], 2)
        for name in ("image", "same", "small"):
            assert example[name].shape == features[name].shape
        check_follows(example["image"], example["where"], padded if valid else None)
        check_follows(example["small"], example["finer"], padded if valid else None)
        assert np.abs(example["same"].astype(int) - example["image"]).mean() < 30
        assert set(example["windows"]) == {"image"} and example["absent"] is None
    assert example.get("flip", False) == (training and draws(key, "image")[2] < 0.5)


def test_boxes_are_clipped_mirrored_and_dropped_where_empty() -> None:
    boxes = np.array([[0.1, 0.2, 0.5, 0.6], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.2, 0.2], [0.6, 0.3, 0.6, 0.4]])
    seen = crop_boxes(boxes, Window(0.25, 0.5, 0.75, 1.0))
    np.testing.assert_allclose(seen, [[0, 0, 0.5, 0.2], [0, 0, 1, 1], [0, 0, 0, 0], [0.7, 0, 0.7, 0]], atol=1e-12)
    np.testing.assert_allclose(flip_boxes(seen)[:2], [[0, 0.8, 0.5, 1], [0, 0, 1, 1]], atol=1e-12)
    padded, valid = pad_boxes(seen, 5)
    assert valid.tolist() == [True, True, False, False, False] and not padded[2:].any() and padded.dtype == np.float32
    for none in (None, np.zeros((0, 4))):
        padded, valid = pad_boxes(none, 3)
        assert padded.shape == (3, 4) and not padded.any() and not valid.any()


def test_a_mask_is_sampled_at_the_centers_as_in_pillow() -> None:
    mask = np.random.default_rng(7).integers(0, 256, (53, 41), dtype=np.uint8)
    left, top, right, bottom = 3, 7, 37, 41
    expected = Image.fromarray(mask).resize((17, 17), Image.Resampling.NEAREST, (left, top, right, bottom))
    seen = crop_mask(mask, Window(top / 53, left / 41, bottom / 53, right / 41), (17, 17))
    assert np.array_equal(seen, np.asarray(expected))


def test_a_mask_keeps_the_numbers_of_a_palette(tmp_path: Path) -> None:
    labels = np.arange(35, dtype=np.uint8).reshape(5, 7)
    gray, palette = Image.fromarray(labels), Image.frombytes("P", (7, 5), labels.tobytes())
    palette.putpalette([*range(100, 205)])
    bits = Image.fromarray(labels > 9)
    for name, image, expected in (("l", gray, labels), ("p", palette, labels), ("1", bits, 255 * (labels > 9))):
        image.save(tmp_path / f"{name}.png")
        assert np.array_equal(decode_mask((tmp_path / f"{name}.png").read_bytes(), "it"), expected)
    with pytest.raises(UserError, match="it: "):
        decode_mask(b"no mask", "it")


@pytest.mark.parametrize(("features", "what"), [
    ({"mask": Feature("array", (1,))}, "'mask'"),
    ({"where": Feature("mask", (3, 3))}, "where"),
    ({"image": Feature("image", (3, 3, 3)), "where": Feature("mask", (3, 3), of="garment")}, "'garment'"),
    ({"image": Feature("image", (3, 3, 3)), "a": Feature("image", (3, 3, 3), of="image"),
      "b": Feature("boxes", (3, 4), of="a")}, "'a'"),
])  # fmt: skip
def test_features_that_no_batch_can_hold_are_one_line(features: dict[str, Feature], what: str) -> None:
    with pytest.raises(UserError, match=what):
        check_features(features, "data.source")


COUNT = 11


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outfits of people: white boxes, as many as the example's number modulo 3, of which the third cannot be read."""
    root = tmp_path_factory.mktemp("outfits")
    rng = np.random.default_rng(5)
    for split in ("train", "validation"):
        (root / split).mkdir()
        for number in range(COUNT):
            low = rng.uniform(0, 0.6, 2)
            image, mask, boxes = drawn(71, 59 + number, (*low.tolist(), *(low + 0.37).tolist()))
            name = root / split / f"{number:03d}"
            Image.fromarray(image).save(f"{name}.png")
            Image.fromarray(mask).save(f"{name}-mask.png")
            Image.fromarray(np.full((97, 61, 3), 20 * number, np.uint8)).save(f"{name}-garment.png")
            told = {
                "caption": f"outfit {number}",
                "boxes": boxes[: number % 3].tolist(),
                "measures": [number, split == "train"],
            }
            Path(f"{name}.json").write_text(json.dumps(told))
    (root / "train" / "003.png").write_bytes(b"broken")
    return root


def of(root: Path, batch: int = 4) -> Config:
    return config_dict("outfits:SOURCE", root, batch=batch, size=20, resize=23, flip=True, options={"boxes": 5})


@pytest.mark.parametrize("training", [True, False])
def test_named_fields_reach_the_batches(training: bool, root: Path) -> None:
    config = of(root)
    source = open_source(config.data, training, 0)
    assert source.features == config.data.features == outfits.features(config.data)
    make = training_batches if training else evaluation_batches
    batches = take(make(source, TOKENIZER, config), 3)
    shapes = {
        "image": (np.float32, (4, 20, 20, 3)), "low_resolution": (np.float32, (4, 10, 10, 3)),
        "person_mask": (np.uint8, (4, 20, 20)), "parts": (np.float32, (4, 5, 4)), "parts_valid": (np.bool_, (4, 5)),
        "garment": (np.float32, (4, 22, 18, 3)), "measures": (np.int32, (4, 2)), "mask": (np.bool_, (4,)),
        "text": (np.int32, (4, 13)),
    }  # fmt: skip
    if not training:
        shapes["key"] = (np.uint32, (4,))
    for batch in batches:
        assert {k: (v.dtype, v.shape) for k, v in batch.items() if isinstance(v, np.ndarray)} == shapes
        assert set(batch) == {*shapes, "id", "captions"}
        for row in np.flatnonzero(batch["mask"]):
            number = int(batch["id"][row])
            assert batch["measures"][row].tolist() == [number, training]
            np.testing.assert_allclose(batch["garment"][row], 20 * number / 127.5 - 1, atol=1e-6)
            box = batch["parts"][row, 0] if batch["parts_valid"][row, 0] else None
            assert not batch["parts_valid"][row, 1:].any() and (box is None or number % 3)
            if number % 3:
                image = ((batch["image"][row] + 1) * 127.5).round()
                check_follows(image, batch["person_mask"][row], box)
        for row in np.flatnonzero(~batch["mask"]):
            assert batch["id"][row] in ("003", "") and not any(
                batch[name][row].any() for name in shapes if name != "text"
            )
    assert training == any(i == "003" for batch in batches for i in batch["id"]) or not training


def test_named_fields_are_the_same_for_any_number_of_processes_and_resumed(root: Path) -> None:
    config = of(root)
    source = open_source(config.data, True, 0)
    whole = take(training_batches(source, TOKENIZER, config), 7)
    assert all(
        same(*pair) for pair in zip(whole[5:], take(training_batches(source, TOKENIZER, config, 5), 2), strict=True)
    )
    halves = [take(training_batches(source, TOKENIZER, config, 0, process, 2), 3) for process in range(2)]
    assert all(same(batch, joined(list(parts))) for batch, *parts in zip(whole, *halves, strict=False))
    held_out = open_source(config.data, False, 0)
    passes = [list(evaluation_batches(held_out, TOKENIZER, config, process, 2)) for process in range(2)]
    expected = list(evaluation_batches(held_out, TOKENIZER, config))
    assert all(same(batch, joined(list(parts))) for batch, *parts in zip(expected, *passes, strict=True))


def test_a_garment_has_a_window_of_its_own_and_the_flip_of_its_person() -> None:
    ramp = np.broadcast_to(
        np.arange(97, dtype=np.uint8)[:, None, None] + np.arange(97, dtype=np.uint8)[:, None], (97, 97, 3)
    )
    features = {name: Feature("image", (SIZE, SIZE, 3)) for name in ("image", "garment")}
    spec, seen = ReadSpec(lambda: iter(()), True, 0, SIZE, RESIZE, True), []
    for key in range(29):
        example: Example = {"image": ramp.copy(), "garment": ramp.copy()}
        for transform in crop_and_flip(spec, features):
            example = transform(example, (3, 0, key))
        flips = [bool(example[name][0, 0, 0] > example[name][0, -1, 0]) for name in features]
        assert flips == [example["flip"]] * 2
        seen.append(example["windows"]["image"] == example["windows"]["garment"])
    assert sum(seen) < 5


def test_a_mixture_has_the_named_fields_of_all_its_components(root: Path) -> None:
    whole = {"source": "outfits:SOURCE", "root": str(root), "options": {"boxes": 5}, "flip": True, "weight": 3.0}
    config = config_dict("mixture", batch=24, size=32, mixture={"one": whole, "two": whole})
    (batch,) = take(training_batches(open_source(config.data, True, 0), TOKENIZER, config), 1)
    assert batch["garment"].shape == (24, 34, 30, 3) and batch["parts_valid"].shape == (24, 5)
    alone = dataclasses.replace(config, data=config.data.mixture["two"])
    expected = take(training_batches(open_source(alone.data, True, 0), TOKENIZER, alone), 1)[0]
    places = [place for place, name in enumerate(batch["id"]) if name.startswith("two/")]
    for name in ("image", "garment", "person_mask", "parts", "parts_valid", "measures"):
        assert np.array_equal(batch[name][places], expected[name][: len(places)])
    mixed = config_dict("mixture", batch=8, size=32, mixture={"outfits": whole, "shapes": {"source": "scenes"}})
    assert tuple(mixed.data.features) == ("image", "text")
    (batch,) = take(training_batches(open_source(mixed.data, True, 0), TOKENIZER, mixed), 1)
    assert set(batch) == {"image", "text", "mask", "id", "captions"}


def test_a_source_that_lacks_what_it_says_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = of(root)
    source = open_source(config.data, True, 0)
    lacking = {**outfits.features(config.data), "shoes": Feature("image", (3, 3, 3))}
    monkeypatch.setattr(outfits, "features", lambda config: lacking)
    source = outfits.open_outfits(config.data, True, 0)
    with pytest.raises(UserError, match="shoes"):
        next(training_batches(source, TOKENIZER, config))


def test_the_source_in_the_documentation_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    program = text[text.index("## A source of your own") :].partition("```python\n")[2].partition("```")[0]
    (tmp_path / "pairs.py").write_text(program)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "train").mkdir()
    image = Image.fromarray(drawn(71, 59, (0.2, 0.2, 0.7, 0.7))[0])
    for name in ("a.jpg", "a-garment.jpg", "a-mask.png"):
        image.convert("L" if name.endswith("png") else "RGB").save(tmp_path / "train" / name)
    (tmp_path / "train" / "a.json").write_text(json.dumps({"caption": "red", "hands": [0.1, 0.2, 0.9, 0.7]}))
    config = config_dict("pairs:SOURCE", tmp_path, batch=3, options={"hands": 5})
    (batch,) = take(training_batches(open_source(config.data, True, 0), TOKENIZER, config), 1)
    assert batch["mask"].all() and batch["hands_valid"].tolist() == [[True, False, False, False, False]] * 3
    assert len(program.splitlines()) < 60 and batch["captions"] == [["red"]] * 3
