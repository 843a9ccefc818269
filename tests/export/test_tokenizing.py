"""Visual tokenizers that are loaded: their codes and images are those of the module; what is wrong is one line."""

from typing import Any

import jax
import numpy as np
import pytest
from made_folder import PROMPTS, told

from mmjax import data, models
from mmjax.config import Config, resolve
from mmjax.export import ImageTokenizer, model_class
from mmjax.types import leaf_name

CONFIGS: dict[str, dict[str, Any]] = {
    "images": {"data": {"source": "coco_folder", "root": "none", "size": 20},
               "model": {"widths": [8, 8], "levels": [5, 3]}},
    # 7 frames do not fit: they are coded as 8 + 1, and of what is decoded the first 7 count.
    "clips": {"data": {"source": "clips_folder", "root": "none", "size": 20, "frames": 7},
              "model": {"widths": [8, 8], "levels": [5, 3], "time_strides": [2, 2]}},
}  # fmt: skip
GRIDS = {"images": (5, 5), "clips": (3, 5, 5)}
NUMBERS = np.random.default_rng(0).integers(0, 256, (17, 7, 20, 20, 3)).astype(np.uint8)


def config_dict(name: str) -> Config:
    return resolve({**CONFIGS[name], "name": name, "train": {"steps": 1}}, {"model.kind": "visual_tokenizer"})


@pytest.fixture(name="model", scope="module", params=CONFIGS)
def untrained(request: pytest.FixtureRequest) -> ImageTokenizer:
    config = config_dict(request.param)
    params = jax.device_get(jax.jit(lambda: models.init(config, jax.random.key(5)))())

    def louder(path: Any, leaf: np.ndarray) -> np.ndarray:  # so that all codes are used, without training
        return leaf * 5 if leaf_name(path) in ("to_codes/kernel", "from_codes/kernel") else leaf

    params = jax.tree_util.tree_map_with_path(louder, params)
    tokenizer = data.load_tokenizer(data.train_tokenizer(PROMPTS * 3, 320))
    model = model_class(config)(config, jax.device_put(params), tokenizer)
    assert type(model) is ImageTokenizer
    return model


def images_for(model: ImageTokenizer, count: int) -> np.ndarray:
    return NUMBERS[:count] if model.config.data.frames > 1 else NUMBERS[:count, 0]


def test_there_and_back_is_the_module(model: ImageTokenizer) -> None:
    images = images_for(model, 3)
    codes = model.encode(images)
    assert codes.shape == (3, *GRIDS[model.config.name]) and codes.dtype == np.int32
    assert codes.min() >= 0 and codes.max() < 15 and len(np.unique(codes)) > 7
    floats = images.astype(np.float32) / np.float32(127.5) - np.float32(1)
    whole = jax.device_get(model.apply(model.params, image=floats))
    np.testing.assert_array_equal(codes.reshape(3, -1), whole["codes"])
    np.testing.assert_array_equal(model.encode(floats), codes)
    again = model.decode(codes)
    assert again.shape == images.shape and again.dtype == np.uint8
    expected = (np.clip(whole["image"], -1, 1) + 1) * 127.5
    assert np.ptp(expected) > 50
    assert np.abs(again - expected).max() <= 0.51  # rounded to levels


def test_each_image_by_itself(model: ImageTokenizer) -> None:
    images = images_for(model, 17)
    codes = model.encode(images)
    again = model.decode(codes)
    for some in ([0], [16, 3], [5] * 5):
        np.testing.assert_array_equal(model.encode(images[some]), codes[some])
        np.testing.assert_array_equal(model.decode(codes[some]), again[some])


def test_codes_of_any_integer_type(model: ImageTokenizer) -> None:
    codes = model.encode(images_for(model, 2))
    for kind in (np.uint8, np.int64):
        np.testing.assert_array_equal(model.decode(codes.astype(kind)), model.decode(codes))


def test_what_is_no_image_and_no_code(model: ImageTokenizer) -> None:
    images, grid = images_for(model, 2), [2, *GRIDS[model.config.name]]
    assert str([2, *images.shape[1:]]) in told(model.encode, images[..., :7, :])
    assert "int64" in told(model.encode, images.astype(np.int64))
    assert told(model.encode, images[:0]).startswith("images: ")
    codes = model.encode(images)
    assert str(list(codes[..., 1:].shape)) in told(model.decode, codes[..., 1:])
    assert told(model.decode, codes[:0]).startswith("codes: ")
    for wrong in (15, -1):
        damaged = codes.copy()
        damaged.flat[3] = wrong
        message = told(model.decode, damaged)
        assert message.startswith("codes: ") and "0 to 14" in message and str(wrong) in message
    message = told(model.decode, codes.astype(np.float32))
    assert "float32" in message and str(["n", *grid[1:]]) in message
