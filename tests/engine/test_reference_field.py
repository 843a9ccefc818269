"""A model's reference is the image of the data set that its config names, here of a source outside of mmjax."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import mmjax
from mmjax import data, models
from mmjax.cli import main
from mmjax.config import Config, resolve
from mmjax.engine import aot_plan, components
from mmjax.models import visual_tokenizer
from mmjax.types import UserError

SOURCE = '''
import numpy as np
from mmjax.data.random_access import read_examples
from mmjax.data.source import TEXT, Source, SourceSpec, image_feature
from mmjax.types import Feature

def features(config):
    side = config.options["side"]
    return {"image": image_feature(config), "garment": Feature("image", (side, side, 3)), "text": TEXT}

def open_garments(config, training, seed):
    """Persons are as bright as their garments are dark."""
    def load(index):
        draw = np.random.default_rng(index)
        bright = draw.integers(0, 256, (5, 5, 3) if config.options.get("noise") else 1, np.uint8)
        garment = np.broadcast_to(bright, (5, 5, 3))
        return {"image": (255 - garment).repeat(8, 0).repeat(8, 1), "garment": garment.repeat(8, 0).repeat(8, 1)}

    def columns(indices):
        return {"id": list(map(str, indices)), "captions": [["dressed"] for _ in indices]}

    read = read_examples(np.arange(23), load, columns, features(config))
    return Source("garments", 23, features(config), lambda: iter(["dressed", "a person"]), read)

SOURCE = SourceSpec(features, open_garments, settings=("options",), needs_root=False)
'''
DATA: dict[str, Any] = {"source": "garments:SOURCE", "size": 12, "resize": 12, "options": {"side": 12}}
DIRECT: dict[str, Any] = {
    "data": DATA,
    "text": {"length": 3, "vocabulary": 300},
    "model": {"width": 16, "heads": 2, "text_layers": 1, "vision_layers": 1, "fusion_layers": 1,
              "decoder_widths": [8, 8], "reference": "garment"},
    "optimizer": {"learning_rate": 0.02, "warmup_steps": 5},
    "train": {"steps": 60, "batch": 8, "evaluate_every": 60, "checkpoint_every": 60},
    "evaluate": {"batch": 8, "samples": 0},
}  # fmt: skip


def tokenizer(size: int, levels: list[int]) -> dict[str, Any]:
    model = {"kind": "visual_tokenizer", "widths": [8, 8], "levels": levels}
    return {"data": {"source": "coco_folder", "root": "/nowhere", "size": size}, "model": model, "train": {"steps": 7}}


MASKED: dict[str, Any] = {
    "data": DATA | {"options": {"side": 40, "noise": True}},
    "text": {"length": 3, "vocabulary": 300},
    "model": {
        "kind": "masked_generator",
        "width": 16,
        "heads": 2,
        "layers": 1,
        "text_layers": 1,
        "reference": "garment",
    },
    "components": {"visual_tokenizer": tokenizer(12, [5, 3]), "reference_tokenizer": tokenizer(20, [7, 5])},
    "losses": {"masked_visual_modeling": {}},
    "train": {"steps": 7},
    "evaluate": {"batch": 8},
}


@pytest.fixture(autouse=True)
def source_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "garments.py").write_text(SOURCE)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield
    sys.modules.pop("garments", None)


def test_a_direct_generator_draws_from_the_named_field(tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text(
        f"from ml_collections import ConfigDict\ndef get_config(argument=None):\n    return ConfigDict({DIRECT!r})\n"
    )
    assert main(["train", f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}"]) == 0
    model = mmjax.load(tmp_path / "run", plugins=("garments",))
    garments = np.stack([np.full((12, 12, 3), bright, np.uint8) for bright in (20, 90, 160, 230)])
    drawn = model.generate(["dressed"] * 4, reference=garments).mean(axis=(1, 2, 3))
    assert np.all(np.diff(drawn) < -20), drawn  # as dark as the garment is bright


def test_what_a_step_reads_is_what_a_plan_expects() -> None:
    config = resolve(DIRECT)
    shapes = aot_plan.batch_shapes(config, 5)
    assert shapes["garment"].shape == shapes["image"].shape == (5, 12, 12, 3)
    batch = {name: np.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
    batch["garment"] += 1
    assert models.find(config).prepare(config, batch, None)["reference"] is batch["garment"]


def test_a_masked_generator_looks_at_the_codes_of_the_named_field(tmp_path: Path) -> None:
    config = resolve(MASKED)
    params = {name: init(each.config, key) for key, (name, each) in enumerate(config.components.items())}
    source = components.codes(config, tmp_path, "train", params)
    spec = data.pipeline.make_read_spec(config.data, 0, 23, 23, 0, 23, False, 0)
    found = next(source.read(spec))
    images = next(data.open_source(config.data, True, 0).read(dataclasses.replace(spec, training=False)))
    fns: Any = models.find(config).model_fns
    order = np.argsort(found["key"])
    encode = jax.jit(fns(config, models.resolve_compute(config.compute, "cpu")).encode_reference)
    expected = encode(params["reference_tokenizer"], images["garment"])
    assert images["garment"].shape == (23, 40, 40, 3) and len(np.unique(expected)) > 5
    np.testing.assert_array_equal(found["reference_codes"][order], expected)
    module: Any = visual_tokenizer.build(config.components["visual_tokenizer"].config)
    codes = jax.jit(lambda params, image: module.apply({"params": params}, image, method="encode"))
    assert found["codes"].shape == (23, 3, 3) and found["reference_codes"].shape == (23, 5, 5)
    assert np.mean(found["codes"][order] == codes(params["visual_tokenizer"], images["image"])) > 0.8  # crops differ
    other = resolve(MASKED | {"model": MASKED["model"] | {"reference": "image"}}, {"data.size": "20"} | SAME_SIZE)
    keys = [data.token_cache_key(params["visual_tokenizer"], each, each, "train", {}) for each in (config, other)]
    assert [key["reference"]["field"] for key in keys] == ["garment", "image"]


SAME_SIZE = {"data.resize": "20", "components.visual_tokenizer.config.data.size": "20"}


def init(config: Config | None, key: int) -> Any:
    assert config is not None
    return jax.jit(lambda: models.init(config, jax.random.key(key)))()


@pytest.mark.parametrize(
    ("tree", "field", "value"),
    [
        (DIRECT | {"model": DIRECT["model"] | {"reference": "trousers"}}, "model.reference", "trousers"),
        (DIRECT | {"data": DATA | {"options": {"side": 7}}}, "model.reference", "[7, 7, 3]"),
        (MASKED | {"model": MASKED["model"] | {"reference": "text"}}, "model.reference", "text"),
    ],
)
def test_a_field_that_is_no_image_or_of_another_shape(tree: dict[str, Any], field: str, value: str) -> None:
    with pytest.raises(UserError) as error:
        resolve(tree)
    assert str(error.value).startswith(f"{field}: ") and value in str(error.value)
