"""Preprocessing of images beside the image processors of transformers on Pillow."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from messages import error_message
from PIL import Image
from safetensors.numpy import load_file

from mmjax.pretrained.images import read_image_settings

REFERENCES = Path(__file__).parents[1] / "references" / "images"
STATISTICS = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


@pytest.mark.parametrize("name", ["clip", "convnext", "dinov2", "siglip", "timm"])
def test_equals_transformers(name: str) -> None:
    reference = load_file(REFERENCES / "reference.safetensors")
    settings = read_image_settings(REFERENCES / name)
    pixels = reference["pixels"]
    got, wanted = settings.prepare([pixels, pixels.swapaxes(0, 1)]), reference[name]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[0], wanted, rtol=0, atol=1e-6)
    # As numbers from 0 to 255 both are the same, bit for bit.
    mean, deviation = (np.array(each) for each in (settings.mean, settings.deviation))
    levels = np.round((wanted * deviation + mean) * 255).astype(np.uint8)
    assert np.array_equal(settings.resized(pixels), levels)
    assert got[0].shape == got[1].shape


def test_resizes_without_rounding_as_for_dinov3() -> None:
    reference = load_file(REFERENCES / "reference.safetensors")
    got = read_image_settings(REFERENCES / "dinov3").prepare([reference["pixels"]])[0]
    np.testing.assert_allclose(got, reference["dinov3"], rtol=0, atol=3e-6)


def written(tmp_path: Path, **values: Any) -> Path:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(values))
    return tmp_path


def test_files_of_old_versions(tmp_path: Path) -> None:
    settings = read_image_settings(
        written(tmp_path, size=9, do_center_crop=True, crop_size=8, resample=3, **STATISTICS)
    )
    assert (settings.size, settings.crop, settings.kernel) == ((9,), (8, 8), 3)
    settings = read_image_settings(written(tmp_path, size=9, **STATISTICS))
    assert (settings.size, settings.crop, settings.kernel) == ((9, 9), (), Image.Resampling.BILINEAR)


def test_an_image_smaller_than_the_crop_gets_a_border(tmp_path: Path) -> None:
    settings = read_image_settings(
        written(tmp_path, do_resize=False, do_center_crop=True, crop_size=7, do_normalize=False)
    )
    image = settings.prepare([np.full((4, 9, 3), 255, np.uint8)])[0]
    assert image.shape == (7, 7, 3) and np.array_equal(image[:, 3, 0], [0, 0, 1, 1, 1, 1, 0])


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"size": 0}, "size"),
        ({"size": 9, "do_resize": "no"}, "do_resize"),
        ({"size": 9, "do_pad": True}, "do_pad"),
        ({"size": 9, "resample": True}, "resample"),
        ({"size": 9, "resample": [3]}, "resample"),
        ({"size": 9, "rescale_factor": []}, "rescale_factor"),
        ({"size": 9, "rescale_factor": [1, 2]}, "rescale_factor"),
        ({"size": 9, "image_mean": [1e308] * 3}, "image_mean"),
        ({"size": 9, "image_processor_type": "DonutImageProcessor"}, "image_processor_type"),
        ({"size": 9, "do_center_crop": True, "crop_size": {"shortest_edge": 9}}, "crop_size"),
        ({"size": {"longest_edge": 9}}, "longest_edge"),
        ({"size": 10**9}, "at most 4096"),
        ({"size": 9, "resample": 9}, "resample"),
        ({"size": 9, "image_std": [0, 1, 1]}, "image_std"),
        ({"size": 9, "image_mean": None}, "image_mean"),
        ({"size": 9, "rescale_factor": "x"}, "rescale_factor"),
    ],
)
def test_what_is_not_supported_is_named(values: dict[str, Any], word: str, tmp_path: Path) -> None:
    message = error_message(read_image_settings, written(tmp_path, **STATISTICS | values))
    assert "preprocessor_config.json" in message and word in message
    (tmp_path / "preprocessor_config.json").unlink()
    assert "preprocessor_config.json" in error_message(read_image_settings, tmp_path)


def test_images_of_several_sizes_that_are_not_resized(tmp_path: Path) -> None:
    settings = read_image_settings(written(tmp_path, do_resize=False, **STATISTICS))
    images = [np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)]
    assert "several sizes" in error_message(settings.prepare, images)


@pytest.mark.parametrize(
    ("kind", "kernel", "crop"),
    [
        ("CLIPImageProcessor", 3, (8, 8)),
        ("CLIPFeatureExtractor", 3, (8, 8)),
        ("BitImageProcessor", 3, (8, 8)),
        ("SiglipImageProcessor", 3, ()),
        ("ViTImageProcessor", 2, ()),
    ],
)
def test_defaults_of_the_class(kind: str, kernel: int, crop: tuple[int, ...], tmp_path: Path) -> None:
    sides = {"size": {"height": 9, "width": 9}, "crop_size": {"height": 8, "width": 8}}
    settings = read_image_settings(written(tmp_path, image_processor_type=kind, **sides, **STATISTICS))
    assert (settings.kernel, settings.crop) == (kernel, crop)


def test_an_image_that_is_too_narrow(tmp_path: Path) -> None:
    settings = read_image_settings(written(tmp_path, size={"shortest_edge": 1000}, do_normalize=False))
    assert "too narrow" in error_message(settings.prepare, [np.zeros((1, 1_000_000, 3), np.uint8)])
