"""A masked generator that looks at the tokens of a reference image: what they change, and where they lie."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mmjax import models
from mmjax.config import Config, MeshConfig, resolve
from mmjax.models import masked_generator
from mmjax.models.masked_transformer import CodeEmbedding, _reference_positions
from mmjax.parallel import make_mesh, match_rules
from mmjax.types import UserError

IMAGES: dict[str, Any] = {"source": "coco_folder", "root": "/nowhere"}  # of any size


def tokenizer(size: int, widths: int, levels: tuple[int, ...] = (5, 3), **changes: Any) -> dict[str, Any]:
    model = {"kind": "visual_tokenizer", "widths": [8] * widths, "levels": list(levels), **changes.pop("model", {})}
    return {"data": IMAGES | {"size": size, **changes}, "model": model, "train": {"steps": 7}}


MODEL = {"kind": "masked_generator", "width": 16, "heads": 2, "layers": 2, "text_layers": 1, "reference_dropout": 0.1}
CONFIG: dict[str, Any] = {
    "data": IMAGES | {"size": 40},
    "text": {"length": 7, "vocabulary": 320},
    "components": {"visual_tokenizer": tokenizer(40, 3), "reference_tokenizer": tokenizer(12, 2, (7, 3))},
    "model": MODEL,
    "losses": {"masked_visual_modeling": {}},
    "train": {"steps": 7},
}


def components(ours: dict[str, Any] | None = None, reference: dict[str, Any] | None = None) -> dict[str, Any]:
    found = {"visual_tokenizer": ours or tokenizer(40, 3)}
    return {"components": found | ({"reference_tokenizer": reference} if reference else {})}


TEXT = jnp.array([[7, 9, 11, 3, 0, 0, 0], [8, 3, 0, 0, 0, 0, 0]], jnp.int32)
CODES = jax.random.randint(jax.random.key(2), (2, 5, 5), 0, 15)
MASKED = jax.random.uniform(jax.random.key(3), (2, 5, 5)) < 0.5
REFERENCE = jax.random.randint(jax.random.key(4), (2, 3, 3), 0, 21)


@functools.partial(jax.jit, static_argnums=0)
def apply(model: Any, params: Any, *seen: Any, **more: Any) -> Any:
    return model.apply({"params": params}, *seen, **more)


def logits(config: Config, params: Any, reference: Any = REFERENCE, **seen: Any) -> Any:
    given = seen if reference is None else {"reference_codes": reference, **seen}
    return apply(models.build(config), params, TEXT, CODES, MASKED, **given)["logits"]


def test_each_example_looks_at_its_own_reference(config: Config, params: Any) -> None:
    assert models.inputs(config)["reference_codes"].shape == (1, 3, 3)
    found = logits(config, params)
    assert found.shape == (2, 5, 5, 15)
    changed = np.abs(found - logits(config, params, REFERENCE.at[0].set(20))).max(axis=(1, 2, 3))
    assert changed[0] > 1e-3 and changed[1] == 0
    moved = logits(config, params, REFERENCE[:, ::-1])  # the same codes at other places
    assert np.abs(found - moved).max() > 1e-3
    assert np.abs(found - logits(config, params, None)).max() > 1e-3


def test_what_is_withheld_is_not_seen(config: Config, params: Any) -> None:
    shown = jnp.array([False, True])
    found = logits(config, params, reference_mask=shown)
    np.testing.assert_allclose(found[0], logits(config, params, None)[0], atol=1e-5)
    np.testing.assert_allclose(found[1], logits(config, params)[1], atol=1e-5)
    loss = jax.jit(jax.grad(lambda p, mask: (logits(config, p, reference_mask=mask) ** 2).sum()))
    for mask, seen in ((jnp.array([False, False]), False), (shown, True)):
        gradient = loss(params, mask)
        for name in ("reference_codes", "reference_type_embedding", "reference_norm"):
            leaves = jax.tree.leaves(gradient[name])
            assert all(np.isfinite(leaf).all() and np.any(leaf != 0) == seen for leaf in leaves), name


def test_what_lies_at_each_place_is_the_cell_that_covers_it(config: Config, params: Any) -> None:
    table = CodeEmbedding((7, 3), 16).apply({"params": params["reference_codes"]})
    context = jax.jit(masked_generator.model_fns(config).context)
    *_, placed = context(params, TEXT, reference_codes=REFERENCE)
    cells = (np.arange(5) * 2 + 1) * 3 // 10  # that in which the center of each of 5 places lies
    np.testing.assert_allclose(placed, np.asarray(table)[np.asarray(REFERENCE)[:, cells][:, :, cells]], atol=1e-6)
    mask = jnp.array([True, False])
    *_, hidden = context(params, TEXT, reference_codes=REFERENCE, reference_mask=mask)
    np.testing.assert_array_equal(hidden[0], placed[0])
    np.testing.assert_array_equal(hidden[1], 0)


def test_a_reference_covers_the_same_image() -> None:
    """Its places are the means of those of the cells they cover; in time its ends are those of the clip."""
    for theirs, each in ((8, 1), (4, 2), (2, 4), (1, 8)):
        places = _reference_positions(8, theirs, time=False)
        np.testing.assert_allclose(places, np.arange(8).reshape(theirs, each).mean(axis=1))
    np.testing.assert_allclose(_reference_positions(5, 3, time=True), [0, 2, 4])
    np.testing.assert_allclose(_reference_positions(5, 1, time=True), [0])


def test_every_parameter_has_a_place_on_the_mesh() -> None:
    config = resolve(CONFIG | components(tokenizer(40, 3, (5, 4)), tokenizer(12, 2, (5, 4))))
    shapes = jax.eval_shape(lambda: models.init(config, jax.random.key(1)))
    shardings = match_rules(shapes, models.sharding_rules(config), make_mesh(MeshConfig(2, 2, 2)))
    assert tuple(shardings["reference_codes"]["embedding"].spec) == ("model", "fsdp")
    assert tuple(shardings["reference_type_embedding"].spec) == ("fsdp",)


def test_a_reference_is_the_image_resized_as_all_images_are(config: Config) -> None:
    """Compared with Pillow's bilinear filter with antialias, by which images in files are resized."""
    reference = config.component("reference_tokenizer")
    assert reference is not None
    params = jax.jit(functools.partial(models.init, reference))(jax.random.key(5))
    images = np.random.default_rng(0).uniform(-1, 1, (3, 40, 40, 3)).astype(np.float32)
    images += np.sin(np.arange(40) / 3).astype(np.float32)[:, None, None]  # what resizing leaves
    small = [[np.asarray(Image.fromarray(channel).resize((12, 12), Image.Resampling.BILINEAR))
              for channel in np.moveaxis(image, -1, 0)] for image in images]  # fmt: skip
    encode = masked_generator.model_fns(config).encode_reference
    assert encode is not None
    resized, compiled = np.moveaxis(np.array(small), 1, -1), jax.jit(encode)
    expected, found = compiled(params, resized), compiled(params, images)
    assert found.shape == (3, 3, 3) and len(np.unique(found)) > 5
    np.testing.assert_array_equal(found, expected)


def test_clips_have_clips_as_references() -> None:
    clips = {"source": "clips_folder", "frames": 5}
    ours, theirs = (
        tokenizer(size, 3, **clips, model={"time_strides": strides})
        for size, strides in ((40, [2, 1, 1]), (24, [2, 2, 1]))
    )
    config = resolve(CONFIG | {"data": IMAGES | {"size": 40, **clips}} | components(ours, theirs))
    seen = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in models.inputs(config).items()}
    assert (seen["codes"].shape, seen["reference_codes"].shape) == ((1, 3, 5, 5), (1, 2, 3, 3))
    outputs: Any = jax.eval_shape(lambda: models.build(config).init_with_output(jax.random.key(0), **seen)[0])
    assert outputs["logits"].shape == (1, 3, 5, 5, 15)


def test_references_are_dropped_as_often_as_asked(config: Config) -> None:
    batch = {"text": jnp.ones((4001, 7), int), "codes": jnp.zeros((4001, 1), int), "mask": jnp.ones(4001, bool)}
    batch |= {"reference_codes": jnp.ones((4001, 3), int)}
    inputs = masked_generator.prepare(config, batch, jax.random.key(3))
    assert abs(float(inputs["reference_mask"].mean()) - 0.9) < 0.02
    assert "reference_mask" not in masked_generator.prepare(config, batch, None)


DIRECT = {"model": {"kind": "direct_generator"}, "losses": {"mean_squared_error": {}}}
OF_REFERENCE = "components.reference_tokenizer"


@pytest.mark.parametrize(("changes", "field", "value"), [
    (components(reference=tokenizer(80, 3)), f"{OF_REFERENCE}.config.data.size", "80 "),
    (components(reference={"train": {"steps": 7}}), f"{OF_REFERENCE}.config.model.kind", "direct_generator"),
    (components(reference=tokenizer(13, 2)), f"{OF_REFERENCE}.config.data.size", "13"),
    (components(reference=tokenizer(12, 2, model={"time_strides": [1, 1]})),
     f"{OF_REFERENCE}.config.model.time_strides", "[1, 1]"),
    (components(reference=tokenizer(12, 2, source="clips_folder", frames=5, model={"time_strides": [1, 2]})),
     f"{OF_REFERENCE}.config.data.frames", "5"),
    (components(), "model.reference_dropout", OF_REFERENCE),
    (components(reference=tokenizer(12, 2) | {"train": {"stepz": 7}}),
     f"{OF_REFERENCE}.config.train.stepz", "no such field"),
    (DIRECT, "components.visual_tokenizer", "direct_generator"),
    (DIRECT | {"components": {"reference_tokenizer": "a"}}, OF_REFERENCE, "direct_generator"),
])  # fmt: skip
def test_configs_that_cannot_be(changes: dict[str, Any], field: str, value: str) -> None:
    with pytest.raises(UserError, match=rf"^{re.escape(field)}: .*{re.escape(value)}"):
        resolve(CONFIG | changes)
